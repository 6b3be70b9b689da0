// The r best of many (score, id) pairs, r <= 1024, for blocks of TOP_THREADS threads.
//
// A pair is one 64-bit key whose order is (score, id), so ties fall to the smaller id and the
// answer does not depend on the order of arrival. Keys below the block's limit gather in shared
// memory; when another step might not fit, they are sorted and the best r stay. Blocks that work
// on one query leave sorted runs; the last of them to arrive merges these.
#pragma once
#include "compat.cuh"

constexpr int TOP_THREADS = 256;
constexpr int TOP_WARPS = TOP_THREADS / WARP;
// Keys that one step may add: two by each thread. top.py makes room for r + TOP_STEP.
constexpr int TOP_STEP = 2 * TOP_THREADS;
constexpr u64 NO_KEY = ~0ull;

// Adding zero makes -0 the +0 that it equals.
DEVICE u64 key_of(float value, int id) {
  const float known = value == value ? value + 0.0f : positive_infinity();
  return (u64)ordered_bits(known) << 32 | (u32)id;
}
// Distances keep their NaN, which Postgres sorts last: after +inf, before NO_KEY.
DEVICE u64 distance_key(float distance, int id) {
  const float known = distance == distance ? distance + 0.0f : __int_as_float(0x7fc00000);
  return (u64)ordered_bits(known) << 32 | (u32)id;
}
DEVICE int id_of(u64 key) { return (int)(u32)key; }  // -1 for NO_KEY
DEVICE float value_of(u64 key) {
  return key == NO_KEY ? positive_infinity() : from_ordered_bits((u32)(key >> 32));
}

// Lives in shared memory, the keys behind it in dynamic shared memory.
struct Top {
  u64 limit;  // keys above it cannot be among the best
  int count;
  int is_last;
};

DEVICE void top_begin(Top& top) {
  if (threadIdx.x == 0) {
    top.limit = NO_KEY;
    top.count = 0;
  }
  __syncthreads();
}

// Whole warps call it. Says whether the step after this one might not fit.
DEVICE bool top_push(Top& top, u64* keys, int capacity, bool wanted, u64 key) {
  const u32 who = __ballot_sync(FULL_WARP, wanted);
  if (who == 0) return false;
  int first = 0;
  if (lane_id() == 0) first = atomicAdd(&top.count, __popc(who));
  first = warp_broadcast(first, 0);
  if (wanted) keys[first + __popc(who & ((1u << lane_id()) - 1u))] = key;
  return first + __popc(who) > capacity - TOP_STEP;
}

// Bitonic sort (Batcher 1968) of n keys, a power of two. A warp's pairs lie within 64 neighbours
// while step <= 32, so only wider steps need the whole block to wait.
DEVICE void sort_keys(u64* keys, int n) {
  int before = n;
  for (int size = 2; size <= n; size <<= 1)
    for (int step = size >> 1; step > 0; step >>= 1) {
      if (step > WARP || before > WARP)
        __syncthreads();
      else
        __syncwarp();
      before = step;
#pragma unroll 1
      for (int i = (int)threadIdx.x; i < n >> 1; i += TOP_THREADS) {
        const int low = 2 * i - (i & (step - 1));
        const u64 a = keys[low], b = keys[low + step];
        if ((a > b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[low + step] = a;
        }
      }
    }
  __syncthreads();
}

// Sorts the keys and keeps the best r. The whole block calls it, after a barrier.
DEVICE void top_shrink(Top& top, u64* keys, int r) {
  const int n = top.count;
  int room = 2 * WARP;
  while (room < n) room <<= 1;
  for (int i = n + (int)threadIdx.x; i < room; i += TOP_THREADS) keys[i] = NO_KEY;
  __syncthreads();
  sort_keys(keys, room);
  if (threadIdx.x == 0) {
    top.count = n < r ? n : r;
    if (n >= r && keys[r - 1] < top.limit) top.limit = keys[r - 1];
  }
  __syncthreads();
}

// Whether this block is the last of `blocks` to arrive; what the others wrote before is visible
// then (CUDA programming guide, memory fence functions). The counter is 0 again afterwards.
DEVICE bool last_to_arrive(Top& top, u32* arrived, int blocks) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    top.is_last = atomicAdd(arrived, 1u) == (u32)blocks - 1u;
    if (top.is_last) *arrived = 0;
  }
  __syncthreads();
  __threadfence();
  return top.is_last != 0;
}

// An upper bound of the r-th best key: every run with j keys has j keys up to its j-th.
DEVICE void bound_by_runs(Top& top, const u64* runs, int blocks, int length, int r) {
  const int j = ceil_div(r, blocks);
  if (threadIdx.x == 0) top.limit = j > length ? NO_KEY : 0;
  __syncthreads();
  u64 worst = 0;
  if (j <= length)
    for (int run = (int)threadIdx.x; run < blocks; run += TOP_THREADS) {
      const u64 key = runs[(i64)run * length + j - 1];
      worst = key > worst ? key : worst;
    }
  worst = warp_max(worst);
  if (lane_id() == 0) atomicMax(&top.limit, worst);
  if (threadIdx.x == 0) top.count = 0;
  __syncthreads();
}

// Leaves the block's best keys as run number `run` of u64[blocks, length]. True in the last block,
// which then has the best r of all runs in `keys`, sorted; top.count says how many there are.
DEVICE bool top_merge(Top& top, u64* keys, int capacity, int r, u64* runs, int length, int run,
                      int blocks, u32* arrived) {
  __syncthreads();
  top_shrink(top, keys, r);
  if (blocks == 1) return true;
  for (int i = (int)threadIdx.x; i < length; i += TOP_THREADS)
    runs[(i64)run * length + i] = i < top.count ? keys[i] : NO_KEY;
  if (!last_to_arrive(top, arrived, blocks)) return false;
  bound_by_runs(top, runs, blocks, length, r);
  for (int first = 0; first < blocks; first += 2 * TOP_WARPS) {
    bool more = true;
    for (int from = 0; more; from += WARP) {
      bool full = false, goes_on = false;
#pragma unroll
      for (int u = 0; u < 2; u++) {
        const int mine = first + 2 * warp_id() + u, place = from + lane_id();
        const bool there = mine < blocks && place < length;
        const u64 key = there ? runs[(i64)mine * length + place] : NO_KEY;
        const bool wanted = key != NO_KEY && key <= top.limit;
        goes_on |= wanted && lane_id() == WARP - 1;
        full |= top_push(top, keys, capacity, wanted, key);
      }
      more = __syncthreads_or(goes_on);
      if (__syncthreads_or(full)) top_shrink(top, keys, r);
    }
  }
  top_shrink(top, keys, r);
  return true;
}

// The sum of `value` over the threads before this one; `total` gets the sum of all.
DEVICE int block_prefix(int value, int* warp_sums /* [TOP_WARPS], shared */, int& total) {
  int sum = value;
#pragma unroll
  for (int step = 1; step < WARP; step <<= 1) {
    const int other = __shfl_up_sync(FULL_WARP, sum, step);
    if (lane_id() >= step) sum += other;
  }
  __syncthreads();
  if (lane_id() == WARP - 1) warp_sums[warp_id()] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < TOP_WARPS; w++) {
    if (w < warp_id()) before += warp_sums[w];
    total += warp_sums[w];
  }
  return before + sum - value;
}
