/*
 * Hopper's clusters: blocks that run at the same time, near each other, and can access each other's dynamic shared
 * memory (PTX ISA "Cluster of Cooperative Thread Arrays"). What one block writes there another sees after the next
 * barrier of the cluster. Internal.
 *
 * A block's memory must not be accessed before the block has started, and the block must not end while others still
 * access it. So a meeting or a barrier comes before the first access, and a barrier after the last one.
 */
#ifndef ESPALIER_CUDA_CLUSTER_CUH
#define ESPALIER_CUDA_CLUSTER_CUH

#include "device.cuh"

namespace esp {

#ifdef __CUDACC__

/* On other GPUs this is empty: their code is never launched, see has_hopper(). */
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

/* Waits until all threads of the cluster have come, so that all blocks have started. It makes no writes visible. */
__device__ inline void cluster_meeting() {
  ESP_CLUSTER_PTX("barrier.cluster.arrive.relaxed;" ::: "memory");
  ESP_CLUSTER_PTX("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Waits until all threads of the cluster have come, and makes what they have written visible to all. */
__device__ inline void cluster_barrier() {
  ESP_CLUSTER_PTX("barrier.cluster.arrive.release;" ::: "memory");
  ESP_CLUSTER_PTX("barrier.cluster.wait.acquire;" ::: "memory");
}

/* The address, in block `rank`, of what `shared` points to in this block's dynamic shared memory. */
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

/* The shape of clusters of `size` blocks, with this many threads and bytes of dynamic shared memory a block. */
struct ClusterShape {
  unsigned size, threads;
  size_t shared_bytes;
};

#ifdef __CUDACC__

/* The configuration of a launch of `clusters` clusters; its attributes are in `attributes`. The blocks of a cluster go
 * to different multiprocessors: two of them on one would do the same at the same time, so neither could hide what the
 * other waits for. */
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

/* How many such clusters the GPU runs at once; 0 if it cannot run one. It also makes the kernel launchable in this
 * shape. So it must be called before the kernel's first launch, which may be captured. On the emulator the number is so
 * small that each cluster takes several rows. */
template <typename... Parameters>
int64_t clusters_at_once(void (*kernel)(Parameters...), const ClusterShape &shape) {
#ifdef __CUDACC__
  const auto function = reinterpret_cast<const void *>(kernel);
  allow_shared(function, shape.shared_bytes);
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t configuration = cluster_configuration(shape, hardware().multiprocessors, attributes);
  configuration.numAttrs = 1; /* only the dimension */
  int clusters = 0;
  if (cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess ||
      cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared) !=
          cudaSuccess ||
      cudaOccupancyMaxActiveClusters(&clusters, function, &configuration) != cudaSuccess) {
    cudaGetLastError(); /* clears the error: the caller goes another way */
    return 0;
  }
  return clusters;
#else
  (void)kernel;
  (void)shape;
  return 2;
#endif
}

/* Runs kernel(arguments...) on `clusters` clusters of consecutive blocks. Otherwise like launch(). */
template <typename... Parameters, typename... Arguments>
int32_t launch_clusters(const char *name, void (*kernel)(Parameters...), const ClusterShape &shape, int64_t clusters,
                        Arguments... arguments) {
  if (clusters == 0) return ESP_OK;
#ifdef __CUDACC__
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t configuration = cluster_configuration(shape, clusters, attributes);
  cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...); /* launched() finds the error */
#else
  emulator::launch_clusters(name, kernel, grid_of(clusters * shape.size), shape.size, shape.threads, shape.shared_bytes,
                            stream(), arguments...);
#endif
  return launched(name);
}

}  // namespace esp

#endif
