/*
 * Hopper's clusters: blocks that run at the same time, near each other, and reach each other's dynamic shared memory
 * (PTX ISA "Cluster of Cooperative Thread Arrays"). What one writes there another sees behind the next barrier of the
 * cluster. Internal.
 *
 * A block must neither be reached before it has started nor end before others are done with its memory: a meeting or a
 * barrier lies before the first access, a barrier behind the last one.
 */
#ifndef ESPALIER_CUDA_CLUSTER_CUH
#define ESPALIER_CUDA_CLUSTER_CUH

#include "device.cuh"

namespace esp {

#ifdef __CUDACC__

/* Other GPUs' code is never launched: see has_hopper(). */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ESP_CLUSTER_PTX(...) asm volatile(__VA_ARGS__)
#else
#define ESP_CLUSTER_PTX(...) __trap()
#endif

/* This block's number in its cluster. */
__device__ inline unsigned cluster_rank() {
  unsigned rank = 0;
  ESP_CLUSTER_PTX("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/* Waits for all threads of the cluster: nobody sees more than before, but all blocks have started. */
__device__ inline void cluster_meeting() {
  ESP_CLUSTER_PTX("barrier.cluster.arrive.relaxed;" ::: "memory");
  ESP_CLUSTER_PTX("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Waits for all threads of the cluster, and shows each what the others have written. */
__device__ inline void cluster_barrier() {
  ESP_CLUSTER_PTX("barrier.cluster.arrive.release;" ::: "memory");
  ESP_CLUSTER_PTX("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Where block `rank` has what `shared` points to, which is dynamic shared memory of this one. */
template <typename T>
__device__ inline T *in_block(T *shared, unsigned rank) {
  uint64_t there = 0;
  ESP_CLUSTER_PTX("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<T *>(there);
}

#else

inline unsigned cluster_rank() { return emulator::cluster_rank(); }
inline void cluster_meeting() { emulator::cluster_barrier(false); }
inline void cluster_barrier() { emulator::cluster_barrier(true); }
template <typename T>
T *in_block(T *shared, unsigned rank) {
  return static_cast<T *>(emulator::in_block(shared, rank));
}

#endif

/* Kernels for clusters of `size` blocks, each of so many threads and bytes of dynamic shared memory. */
struct ClusterShape {
  unsigned size, threads;
  size_t shared_bytes;
};

#ifdef __CUDACC__

/* What a launch of `clusters` clusters is told; its attributes are in `attributes`. The blocks of one go to as many
 * multiprocessors: two on one would do the same at the same time, of which neither hides what the other waits for. */
inline cudaLaunchConfig_t cluster_configuration(const ClusterShape &shape, int64_t clusters,
                                                cudaLaunchAttribute (&attributes)[2]) {
  attributes[0] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = shape.size;
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1] = {};
  attributes[1].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
  attributes[1].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicySpread;
  cudaLaunchConfig_t configuration = {};
  configuration.gridDim = grid_of(clusters * shape.size);
  configuration.blockDim = shape.threads;
  configuration.dynamicSmemBytes = shape.shared_bytes;
  configuration.stream = stream();
  configuration.attrs = attributes;
  configuration.numAttrs = 2;
  return configuration;
}

#endif

/* How many such clusters the GPU runs at once: 0 where it cannot run one. Makes the kernel launchable in this shape, so
 * it comes before its first launch, which may be captured. The emulator: so few that each takes several rows. */
template <typename... Parameters>
int64_t clusters_at_once(void (*kernel)(Parameters...), const ClusterShape &shape) {
#ifdef __CUDACC__
  const auto function = reinterpret_cast<const void *>(kernel);
  allow_shared(function, shape.shared_bytes);
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t configuration = cluster_configuration(shape, hardware().multiprocessors, attributes);
  configuration.numAttrs = 1; /* the dimension alone */
  int clusters = 0;
  if (cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
      cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared) !=
          cudaSuccess ||
      cudaOccupancyMaxActiveClusters(&clusters, function, &configuration) != cudaSuccess) {
    cudaGetLastError(); /* the caller goes another way */
    return 0;
  }
  return clusters;
#else
  (void)kernel;
  (void)shape;
  return 2;
#endif
}

/* Runs kernel(arguments...) on `clusters` clusters, consecutive blocks each; otherwise as launch(). */
template <typename... Parameters, typename... Arguments>
int32_t launch_clusters(const char *name, void (*kernel)(Parameters...), const ClusterShape &shape, int64_t clusters,
                        Arguments... arguments) {
  if (clusters == 0) return ESP_OK;
#ifdef __CUDACC__
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t configuration = cluster_configuration(shape, clusters, attributes);
  cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...); /* launched() finds what it says */
#else
  emulator::launch_clusters(name, kernel, grid_of(clusters * shape.size), shape.size, shape.threads, shape.shared_bytes,
                            stream(), arguments...);
#endif
  return launched(name);
}

}  // namespace esp

#endif
