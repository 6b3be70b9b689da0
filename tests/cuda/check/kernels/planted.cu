// Small kernels that are right with NONE and each wrong in one way with another bug: what the
// checker must say about them is in test_planted_bugs.py. Blocks have 64 threads.
#include "compat.cuh"

enum Bug {
  NONE,
  // table_scan
  NO_BARRIER_AFTER_TABLE,
  NO_BARRIER_BEFORE_MERGE,
  IDS_PAST_END,
  TABLE_PAST_END,
  VOTE_IN_BRANCH,
  ODD_VECTOR_LOAD,
  READS_UNWRITTEN,
  // staged
  NO_WAIT,
  NO_WARP_BARRIER,
  // rounds
  NO_BARRIER_IN_LOOP,
  // last_block
  NO_FENCE,
  PLAIN_COUNTER,
  // histogram
  SHARED_COUNT_WITHOUT_ATOMIC,
  GLOBAL_COUNT_WITHOUT_ATOMIC,
  // bytes
  SAME_BYTE,
  // meeting
  BARRIER_IN_BRANCH,
  TWO_BARRIERS,
  FOREIGN_LANE,
  ENDED_LANES,
  NOT_IN_OWN_MASK,
};
constexpr int THREADS = 64, M = 16;

// A list scan in small: table[M][16] of squared differences, one row of codes a thread, best of the block.
template <int BUG>
TEMPLATE_KERNEL __launch_bounds__(THREADS)
table_scan(const float* query, const float* book, const u8* codes, const i32* ids, i32 n, float* out, i32* out_id) {
  __shared__ float table[M * 16];
  __shared__ float best[THREADS];
  __shared__ i32 best_id[THREADS];
  for (int i = threadIdx.x; i < M * 16; i += THREADS) {
    float t = query[i / 16] - book[i];
    if (BUG != READS_UNWRITTEN || i != 77) table[i] = t * t;
  }
  if (BUG != NO_BARRIER_AFTER_TABLE) __syncthreads();
  int row = threadIdx.x;
  float sum = 0;
  const uint4* mine = (const uint4*)(codes + (BUG == ODD_VECTOR_LOAD ? 8 : 0)) + row;
  uint4 v = load_streaming(mine);  // @codes
  u32 words[4] = {v.x, v.y, v.z, v.w};
  for (int m = 0; m < M; m++) sum += table[m * 16 + (words[m / 4] >> 8 * (m % 4) & 15u)];  // @lookups
  if (BUG == TABLE_PAST_END) sum += query[M + row];
  best[row] = row < n ? sum : positive_infinity();
  best_id[row] = ids[BUG == IDS_PAST_END ? row + 1 : row];  // @ids
  if (BUG == VOTE_IN_BRANCH && row < 5) {
    if (__ballot_sync(FULL_WARP, 1)) sum = 0;
  }
  if (BUG != NO_BARRIER_BEFORE_MERGE) __syncthreads();
  if (threadIdx.x) return;
  int at = 0;
  for (int i = 1; i < THREADS; i++)
    if (best[i] < best[at]) at = i;
  *out = best[at];
  *out_id = best_id[at];
}

// Sixteen bytes a lane through shared memory by cp.async, read by the neighbour.
template <int BUG>
TEMPLATE_KERNEL staged(const float4* in, float4* out) {
  DYNAMIC_SHARED(float4, tile);
  int i = threadIdx.x;
  cp_async_16(tile + i, in + i);
  cp_async_commit();
  if (BUG != NO_WAIT) cp_async_wait<0>();
  if (BUG != NO_WARP_BARRIER) __syncwarp();
  out[i] = tile[i ^ 1];
}

// A running value that moves on by one thread each round.
template <int BUG>
TEMPLATE_KERNEL rounds(const i32* in, i32* out) {
  __shared__ i32 ring[THREADS];
  i32 own = in[threadIdx.x];
  for (int r = 0; r < 3; r++) {
    ring[threadIdx.x] = own;
    __syncthreads();
    own = ring[(threadIdx.x + 1) % THREADS];
    if (BUG != NO_BARRIER_IN_LOOP) __syncthreads();
  }
  out[threadIdx.x] = own;
}

// Each block writes a part, the last one adds them up.
template <int BUG>
TEMPLATE_KERNEL last_block(const i32* in, i32* parts, u32* arrived, i32* out) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = in[blockIdx.x];
    if (BUG != NO_FENCE) __threadfence();
    u32 before = BUG == PLAIN_COUNTER ? (*arrived)++ : atomicAdd(arrived, 1u);
    last = before == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x) return;
  i32 sum = 0;
  for (int b = 0; b < (int)gridDim.x; b++) sum += parts[b];
  *out = sum;
}

template <int BUG>
TEMPLATE_KERNEL histogram(const u8* values, u32* counts) {
  __shared__ u32 own[16];
  if (threadIdx.x < 16) own[threadIdx.x] = 0;
  __syncthreads();
  u32* mine = own + values[blockIdx.x * THREADS + threadIdx.x] % 16;
  if (BUG == SHARED_COUNT_WITHOUT_ATOMIC) ++*mine;
  else atomicAdd(mine, 1u);
  __syncthreads();
  if (threadIdx.x >= 16) return;
  if (BUG == GLOBAL_COUNT_WITHOUT_ATOMIC) counts[threadIdx.x] += own[threadIdx.x];
  else atomicAdd(counts + threadIdx.x, own[threadIdx.x]);
}

// Each thread writes a byte of its own; words are shared by four of them, which is fine.
template <int BUG>
TEMPLATE_KERNEL bytes(u8* out) {
  int i = threadIdx.x;
  out[BUG == SAME_BYTE ? i / 2 : i] = (u8)i;
}

// What threads must do together. Found without the checker as well.
template <int BUG>
TEMPLATE_KERNEL meeting(i32* out) {
  i32 x = threadIdx.x;
  if (BUG == ENDED_LANES && x >= 48) return;
  if (BUG == BARRIER_IN_BRANCH && x < 32) return;
  if (BUG == BARRIER_IN_BRANCH && x == 40) __syncwarp(1u << 9);
  if (BUG == TWO_BARRIERS && x < 32) __syncthreads();
  else __syncthreads();
  if (BUG == FOREIGN_LANE && x < 16) x = __shfl_sync(0xffffu, x, 20);
  if (BUG == NOT_IN_OWN_MASK && x < 32) __syncwarp(0xffffu);
  x += __shfl_xor_sync(FULL_WARP, x, 1);
  out[threadIdx.x] = x;
}

// Reads with known costs.
KERNEL patterns(const float* in, const uint4* wide, const u32* rows, float* out) {
  __shared__ float words[32 * 33];
  __shared__ uint4 quads[64];
  int lane = lane_id();
  for (int i = lane; i < 32 * 33; i += WARP) words[i] = 0;
  for (int i = lane; i < 64; i += WARP) quads[i] = make_uint4(0, 0, 0, 0);
  __syncwarp();
  u32 row = rows[lane];
  float sum = in[lane];                // @coalesced
  sum += in[lane * 8];                 // @strided
  sum += in[7];                        // @broadcast
  sum += in[lane + 1];                 // @shifted
  sum += (float)wide[lane].x;          // @wide
  sum += in[row];                      // @gathered
  sum += words[lane];                  // @free
  sum += words[lane * 2];              // @two-way
  sum += words[lane * 32];             // @all-in-one-bank
  sum += words[lane * 33];             // @padded
  sum += words[5];                     // @one-word
  sum += (float)quads[lane].x;         // @quads
  sum += (float)quads[lane * 2].x;     // @quads-apart
  out[lane] = sum;
}
