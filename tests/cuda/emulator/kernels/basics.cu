// Kernels that ask the emulator for what it models.
#include "compat.cuh"

KERNEL scale(const float* in, float* out, i64 n, float by) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i] * by;
}

// out[block] = sum of the block's threads' numbers, through shared memory and shuffles.
template <int THREADS> TEMPLATE_KERNEL __launch_bounds__(THREADS) block_sums(const float* in, float* out) {
  __shared__ float sums[THREADS / WARP];
  float sum = warp_sum(in[blockIdx.x * THREADS + threadIdx.x]);
  if (lane_id() == 0) sums[warp_id()] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < THREADS / WARP; w++) sum += sums[w];
    out[blockIdx.x] = sum;
  }
}

// c[16][8] = a[16][16] * b[8][16]^T by one warp.
KERNEL product(const f16* a, const f16* b, float* c) {
  DYNAMIC_SHARED(f16, tile);
  int lane = lane_id();
  cp_async_16(tile + lane * 8, a + lane * 8);
  if (lane < 16) cp_async_16(tile + 256 + lane * 8, b + lane * 8);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  u32 fa[4], fb[2];
  float acc[4] = {0, 0, 0, 0};
  ldmatrix_x4(fa, tile + (lane % 8 + 8 * (lane / 8 % 2)) * 16 + 8 * (lane / 16));
  ldmatrix_x2(fb, tile + 256 + (lane % 8) * 16 + 8 * (lane / 8 % 2));
  mma_m16n8k16(acc, fa, fb);
  for (int i = 0; i < 4; i++) c[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}
