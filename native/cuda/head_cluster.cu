/*
 * Rows of KL on Hopper, for models in bfloat16: what kl_rows of head.cu computes, but without its second reading of the
 * logits. They stay in shared memory instead. With a vocabulary of 256000 a row of both models is 2 MB. A cluster of 16
 * blocks takes it, 125 KB each. Of these, 113 KB fit into shared memory beside those of another block; the rest stays
 * in registers.
 *
 * A block has a slice of the row, and a thread has packs of it that no other thread touches. For each row,
 *
 *   copies of logits arrive (cp.async), are turned into levels in place, and are summed up;
 *   the blocks tell each other their sums;
 *   the threads read their levels again, and where they have read, the copy of the next row's logits begins.
 *
 * Gradients in bfloat16 lie over the first half of the row's logits, so over the slices of other blocks. They are
 * stored after the barrier at which all blocks have copied their slices. It is the only barrier of the cluster for a
 * row.
 *
 * Bytes: 10 for a logit of both models, where two readings need 18.
 *
 * Time for 512 rows of 256000 on an H200, computed: 0.34 ms for the bytes at the 3.9 TB/s of a copy; 0.28 ms to issue
 * 62 instructions a logit of both models, 0.31 including what a row costs in addition; 0.28 ms for the 8 of these that
 * go to special function units, 16 a cycle (12 in head.cu, which computes levels twice). Copies run while a block
 * computes, and of the two blocks of a multiprocessor one waits while the other does not. So 0.40 ms are predicted;
 * kl_rows takes 0.69.
 *
 * A thread has at most 36 logits of a row, so its sums are float32. All sums are in an order that depends on vocab
 * alone.
 */
#include <algorithm>

#include "cluster.cuh"
#include "head.cuh"
#include "mma.cuh"

namespace esp::head {
namespace {

constexpr int kRowThreads = 512, kRowWarps = kRowThreads / 32, kRowBlocks = 2;
constexpr int kMostBlocks = 16;
constexpr int kSteps = 7; /* at most so many packs of both models a thread keeps in shared memory */
constexpr int kSpare = 2; /* of so many more, at most, it keeps the teacher's levels in registers */

using Quad = Pack<4>;
using RowScale = Scale<bf16>;

/* The sums of a part of a row: sum is that of power(level - maximum). */
struct Sums {
  float maximum, sum;

  __device__ void add(const Quad &levels) {
    const float top = fmaxf(fmaxf(levels[0], levels[1]), fmaxf(levels[2], levels[3]));
    if (top > maximum) {
      sum *= RowScale::power(maximum - top);
      maximum = top;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) sum += RowScale::power(levels[i] - maximum);
  }

  /* The sums of all lanes' parts together. */
  __device__ Sums over_warp() const {
    float top = maximum;
    for (int lanes = 16; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, lanes));
    return {top, warp_sum(sum * RowScale::power(maximum - top))};
  }

  __device__ double log_sum_exp() const {
    return static_cast<double>(RowScale::kNats) * static_cast<double>(maximum) + log(static_cast<double>(sum));
  }
};

struct BothSums {
  Sums student, teacher;

  static __device__ BothSums of(float4 x) { return {{x.x, x.y}, {x.z, x.w}}; }
  __device__ float4 stored() const { return make_float4(student.maximum, student.sum, teacher.maximum, teacher.sum); }
  __device__ BothSums over_warp() const { return {student.over_warp(), teacher.over_warp()}; }
};

/* A block's dynamic shared memory. It begins with what blocks tell each other. Then come 16 bytes for each pack of its
 * slice of the student's row, and for as many packs of the teacher's as there is room. */
struct Told {
  float4 warps[kRowWarps]; /* the sums of this block's warps */
  float warp_divergences[kRowWarps];
  /* For this row and the one before, in turn: a block may write while another one, a row behind, still reads. */
  float4 blocks[2][kMostBlocks];     /* the sums of all blocks; each block has a copy */
  float divergences[2][kMostBlocks]; /* those of all blocks; only block 0 has them */
};
constexpr int kSharedBytes = (228 << 10) / kRowBlocks - 1024; /* 1 KB of each block's share is CUDA's */
constexpr int kSlots = static_cast<int>((kSharedBytes - sizeof(Told)) / 16);
constexpr int kMostPacks = (kSlots + kSpare * kRowThreads) / 2; /* of a slice */

struct Cut {
  unsigned blocks; /* of a cluster */
  int packs;       /* of a slice; the last ones may have fewer, or none */
  int teachers;    /* how many of the teacher's packs have room in shared memory */
};

/* The smallest cluster whose blocks have room for their slices. It has 0 blocks if even the largest has no room. */
Cut cut(int64_t vocab) {
  const int64_t packs = vocab / 4;
  for (unsigned blocks = 1; blocks <= kMostBlocks; blocks *= 2) {
    const int64_t slice = (packs + 2 * blocks - 1) / (2 * blocks) * 2; /* whole sectors of 32 bytes */
    if (slice > kMostPacks) continue;
    const int own = static_cast<int>(slice);
    return {blocks, own, std::min(kSlots - own, kSteps * kRowThreads)};
  }
  return {0, 0, 0};
}

__device__ inline Quad in_levels(Quad z, const RowScale &scale) {
#pragma unroll
  for (int i = 0; i < 4; i++) z[i] = scale.level(z[i]);
  return z;
}

/* Turns the logits that have arrived in the slot into levels, in place. */
__device__ inline Quad in_levels(uint4 *slot, const RowScale &scale) {
  const Quad z = in_levels(unpacked<float>(load_16(slot)), scale);
  store_16(slot, packed<float>(z));
  return z;
}

__device__ inline void store_quad(bf16 *address, const Quad &z) {
  *reinterpret_cast<uint2 *>(address) =
      make_uint2(bits_of(rounded<bf16>(z[0]), rounded<bf16>(z[1])), bits_of(rounded<bf16>(z[2]), rounded<bf16>(z[3])));
}

__device__ inline float cross_entropy(const Sums &row, float level, int32_t target, int64_t vocab) {
  if (target < 0) return 0;
  if (target >= vocab) return nanf("");
  return static_cast<float>(row.log_sum_exp() - static_cast<double>(RowScale::kNats) * static_cast<double>(level));
}

/* Works on rows.student[count, vocab]. There are as many clusters as the GPU runs at once; they take rows in turn. */
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) kl_rows_by_clusters(KlRows rows, int64_t count, Cut cut) {
  ESP_DYNAMIC_SHARED(Told, told);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const unsigned rank = cluster_rank(), clusters = gridDim.x / cut.blocks;
  const RowScale scale(rows.softcap);
  const int first = static_cast<int>(rank) * cut.packs, left = static_cast<int>(rows.vocab / 4) - first;
  const int packs = left < cut.packs ? left : cut.packs; /* below 1 where the slice is empty */
  const int kept = packs < cut.teachers ? packs : cut.teachers;

  /* A thread's packs of the slice are kRowThreads apart. The first are those of its steps, whose levels of both models
   * are in shared memory. The others are spare: their teacher's levels are in registers. The first threads have one
   * step more, the last ones one spare pack more. */
  uint4 *const students = reinterpret_cast<uint4 *>(told + 1) + thread, *const teachers = students + cut.packs;
  const int steps = kept > thread ? (kept - thread + kRowThreads - 1) / kRowThreads : 0;
  const int to_spare = kept + kRowThreads - 1 - 2 * thread; /* from the thread's first pack to its first spare one */
  const int spares = (packs - kept + thread) / kRowThreads;
  const float *next_student = rows.student + blockIdx.x / cut.blocks * rows.ld + 4 * (first + thread);
  const float *next_teacher = rows.teacher + (next_student - rows.student);
  Quad spare[kSpare] = {};
  auto fetch = [&](int step) {
    const int j = step * kRowThreads;
    cp_async_16(students + j, next_student + 4 * j, true);
    cp_async_16(teachers + j, next_teacher + 4 * j, true);
  };
  /* The student's logits of a spare pack arrive with those of the first step. */
  auto fetch_spare = [&](int e) {
    const int j = to_spare + e * kRowThreads;
    cp_async_16(students + j, next_student + 4 * j, true);
    spare[e] = load<4>(next_teacher + 4 * j);
  };
  /* Blocks tell block 0 their parts of a row's divergence together with the next row's sums. Block 0 then writes the
   * total. */
  const bool tells = rank == 0 && thread == 0;
  auto tell_divergence = [&](unsigned turn) {
    const float own = warp_sum(lane < kRowWarps ? told->warp_divergences[lane] : 0.0f);
    if (lane == 0) in_block(told, 0)->divergences[turn][rank] = own;
  };
  auto total_divergence = [&](unsigned turn) {
    double sum = 0;
    for (unsigned b = 0; b < cut.blocks; b++) sum += static_cast<double>(told->divergences[turn][b]);
    return static_cast<float>(sum);
  };

#pragma unroll
  for (int e = 0; e < kSpare; e++) {
    if (e < spares) fetch_spare(e);
  }
  for (int step = 0; step < kSteps; step++) {
    if (step < steps) fetch(step);
    cp_async_commit();
  }
  cluster_meeting();
  int64_t r = blockIdx.x / cut.blocks;
  unsigned turn = 0;
  for (bool is_first = true; r < count; r += clusters, turn = 1 - turn, is_first = false) {
    BothSums sums{{kNothing, 0}, {kNothing, 0}};
    for (int step = 0; step < kSteps; step++) {
      cp_async_wait<kSteps - 1>();
      if (step < steps) {
        sums.student.add(in_levels(students + step * kRowThreads, scale));
        sums.teacher.add(in_levels(teachers + step * kRowThreads, scale));
      }
      cp_async_commit(); /* an empty group, so that the oldest of as many groups is always the next step's */
    }
#pragma unroll
    for (int e = 0; e < kSpare; e++) {
      if (e >= spares) continue;
      sums.student.add(in_levels(students + to_spare + e * kRowThreads, scale));
      spare[e] = in_levels(spare[e], scale);
      sums.teacher.add(spare[e]);
    }

    const int32_t target = tells && rows.targets != nullptr ? rows.targets[r] : -1;
    float student_level = 0, teacher_level = 0; /* of the target, before gradients lie there */
    if (target >= 0 && target < rows.vocab) {
      student_level = scale.level(rows.student[r * rows.ld + target]);
      teacher_level = scale.level(rows.teacher[r * rows.ld + target]);
    }

    sums = sums.over_warp();
    if (lane == 0) told->warps[warp] = sums.stored();
    __syncthreads();
    const float4 nothing = make_float4(kNothing, 0, kNothing, 0);
    const bool is_block = lane < static_cast<int>(cut.blocks);
    if (warp == 0) {
      const BothSums own = BothSums::of(lane < kRowWarps ? told->warps[lane] : nothing).over_warp();
      if (is_block) in_block(told, static_cast<unsigned>(lane))->blocks[turn][rank] = own.stored();
      if (!is_first) tell_divergence(1 - turn);
    }
    cluster_barrier(); /* all blocks have copied their slices and told their sums */
    if (tells && !is_first) rows.kl[r - clusters] = total_divergence(1 - turn);
    sums = BothSums::of(is_block ? told->blocks[turn][lane] : nothing).over_warp();
    const Sums s = sums.student, t = sums.teacher;
    if (tells && rows.targets != nullptr) {
      rows.ce_student[r] = cross_entropy(s, student_level, target, rows.vocab);
      rows.ce_teacher[r] = cross_entropy(t, teacher_level, target, rows.vocab);
    }

    const float shift = RowScale::kNats * (s.maximum - t.maximum) + logf(s.sum / t.sum);
    const float s_inverse = 1 / s.sum, t_inverse = 1 / t.sum;
    bf16 *const out = gradient_row<bf16>(rows.student + r * rows.ld) + 4 * (first + thread);
    float divergence = 0;
    auto finish = [&](int j, Quad z, const Quad &other) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float q = RowScale::power(z[i] - s.maximum) * s_inverse;
        const float p = RowScale::power(other[i] - t.maximum) * t_inverse;
        const Entry e = entry(p, q, RowScale::kNats * (z[i] - other[i]) - shift);
        divergence += e.divergence;
        z[i] = rows.grad_scale * e.difference * slope(scale, z[i]);
      }
      if (rows.gradient) store_quad(out + 4 * j, z);
    };
    /* Once a pack has been read for the last time, the next row's pack is copied to its place. */
    const bool fetches = r + clusters < count;
    next_student += clusters * rows.ld;
    next_teacher += clusters * rows.ld;
#pragma unroll
    for (int e = 0; e < kSpare; e++) {
      if (e >= spares) continue;
      const int j = to_spare + e * kRowThreads;
      finish(j, unpacked<float>(load_16(students + j)), spare[e]);
      if (fetches) fetch_spare(e);
    }
    for (int step = 0; step < kSteps; step++) {
      if (step < steps) {
        const int j = step * kRowThreads;
        const Quad z = unpacked<float>(load_16(students + j)), other = unpacked<float>(load_16(teachers + j));
        if (fetches) fetch(step);
        finish(j, z, other);
      }
      cp_async_commit();
    }

    divergence = warp_sum(divergence);
    if (lane == 0) told->warp_divergences[warp] = divergence;
  }
  __syncthreads();
  if (warp == 0) tell_divergence(1 - turn);
  cluster_barrier();
  if (tells) rows.kl[r - clusters] = total_divergence(1 - turn);
}

/* How many clusters of this many blocks the GPU runs at once. GPCs differ in how many they have room for. 0 if more
 * than a quarter of the multiprocessors would be left idle. */
int64_t clusters_at_once(unsigned blocks) {
  const int64_t at_once = esp::clusters_at_once(kl_rows_by_clusters, {blocks, kRowThreads, kSharedBytes});
  return 4 * at_once * blocks >= 3 * hardware().multiprocessors ? at_once : 0;
}

/* The same, computed once. */
int64_t known_at_once(unsigned blocks) {
  static const int64_t known[] = {clusters_at_once(2), clusters_at_once(4), clusters_at_once(8), clusters_at_once(16)};
  return known[blocks == 2 ? 0 : blocks == 4 ? 1 : blocks == 8 ? 2 : 3];
}

}  // namespace

/* Rows that fit into one block are not worth it: their second reading comes from L2, as 264 of them, two a
 * multiprocessor, are 35 MB. */
bool suits_clusters(int64_t vocab) {
  const unsigned blocks = cut(vocab).blocks;
  return blocks >= 2 && has_hopper() && known_at_once(blocks) > 0;
}

int32_t kl_by_clusters(const KlRows &rows, int64_t count) {
  const Cut slices = cut(rows.vocab);
  return launch_clusters("kl_rows_by_clusters", kl_rows_by_clusters, {slices.blocks, kRowThreads, kSharedBytes},
                         std::min(count, known_at_once(slices.blocks)), rows, count, slices);
}

}  // namespace esp::head
