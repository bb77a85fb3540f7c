/*
 * Changes a captured CUDA graph before it is instantiated: small fills and copies become kernels.
 *
 * Why: cuBLAS zeroes counters in its workspace before some products. Between kernels such a memory-set node took 6.6 us
 * on an H200, of which the filling takes 0.8. There were 62 of them, 1.5 % of a step. A kernel follows a kernel within
 * 0.2 us. The same holds for the copies of a batch's tokens and of a step's few numbers: in the first 0.1 ms of a step
 * 0.06 were waiting between them. Kernels can access pinned memory of the host, too.
 */
#include "device.cuh"

#ifdef __CUDACC__
#include <vector>

namespace esp {
namespace {

constexpr size_t kLargest = 64 << 10; /* bytes: for more a copy engine, or a kernel of many blocks, is better */

constexpr unsigned kBlock = 1024;

template <typename T>
__global__ void fill_elements(T *target, T value, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) target[i] = value;
}

/* What comes from the host takes over a microsecond to arrive. So a thread asks for several elements before it stores
 * the first. */
template <typename T>
__global__ void copy_elements(T *target, const T *source, uint32_t count) {
  constexpr uint32_t kAtOnce = 4;
  for (uint32_t first = threadIdx.x; first < count; first += kAtOnce * blockDim.x) {
    T asked[kAtOnce];
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; j++) {
      if (const uint32_t i = first + j * blockDim.x; i < count) asked[j] = source[i];
    }
#pragma unroll
    for (uint32_t j = 0; j < kAtOnce; j++) {
      if (const uint32_t i = first + j * blockDim.x; i < count) target[i] = asked[j];
    }
  }
}

/* In CUDA 12 these functions do not take the data of edges. */
cudaError_t dependencies(cudaGraphNode_t node, cudaGraphNode_t *nodes, size_t *count) {
#if CUDART_VERSION >= 13000
  return cudaGraphNodeGetDependencies(node, nodes, nullptr, count);
#else
  return cudaGraphNodeGetDependencies(node, nodes, count);
#endif
}

cudaError_t dependents(cudaGraphNode_t node, cudaGraphNode_t *nodes, size_t *count) {
#if CUDART_VERSION >= 13000
  return cudaGraphNodeGetDependentNodes(node, nodes, nullptr, count);
#else
  return cudaGraphNodeGetDependentNodes(node, nodes, count);
#endif
}

cudaError_t add_dependencies(cudaGraph_t graph, const cudaGraphNode_t *from, const cudaGraphNode_t *to, size_t count) {
#if CUDART_VERSION >= 13000
  return cudaGraphAddDependencies(graph, from, to, nullptr, count);
#else
  return cudaGraphAddDependencies(graph, from, to, count);
#endif
}

/* The nodes that `list` returns: it is called first for their number, then for the nodes. */
template <typename List>
cudaError_t nodes_of(List list, std::vector<cudaGraphNode_t> &nodes) {
  size_t count = 0;
  if (const cudaError_t error = list(nullptr, &count)) return error;
  nodes.resize(count);
  return count == 0 ? cudaSuccess : list(nodes.data(), &count);
}

/* Adds a node that runs kernel(arguments...) in one block. */
template <typename... Parameters>
cudaError_t add_kernel(cudaGraph_t graph, const std::vector<cudaGraphNode_t> &before, cudaGraphNode_t *added,
                       void (*kernel)(Parameters...), Parameters... arguments) {
  void *pointers[] = {&arguments...};
  cudaKernelNodeParams node{};
  node.func = reinterpret_cast<void *>(kernel);
  node.gridDim = dim3(1);
  node.blockDim = dim3(kBlock);
  node.kernelParams = pointers;
  return cudaGraphAddKernelNode(added, graph, before.data(), before.size(), &node);
}

/* Replaces a node by another. add(nodes before it, place for the new node) creates that. */
template <typename Add>
cudaError_t replace(cudaGraph_t graph, cudaGraphNode_t node, Add add) {
  std::vector<cudaGraphNode_t> before, behind;
  auto list_before = [&](cudaGraphNode_t *nodes, size_t *count) { return dependencies(node, nodes, count); };
  auto list_behind = [&](cudaGraphNode_t *nodes, size_t *count) { return dependents(node, nodes, count); };
  if (const cudaError_t error = nodes_of(list_before, before)) return error;
  if (const cudaError_t error = nodes_of(list_behind, behind)) return error;
  cudaGraphNode_t added = nullptr;
  if (const cudaError_t error = add(before, &added)) return error;
  const std::vector<cudaGraphNode_t> from(behind.size(), added);
  if (const cudaError_t error = add_dependencies(graph, from.data(), behind.data(), behind.size())) return error;
  return cudaGraphDestroyNode(node);
}

cudaError_t replace_fill(cudaGraph_t graph, cudaGraphNode_t node) {
  cudaMemsetParams fill{};
  if (const cudaError_t error = cudaGraphMemsetNodeGetParams(node, &fill)) return error;
  if (fill.height != 1 || fill.width * fill.elementSize > kLargest) return cudaSuccess;
  const auto count = static_cast<uint32_t>(fill.width);
  return replace(graph, node, [&](const std::vector<cudaGraphNode_t> &before, cudaGraphNode_t *added) {
    auto of = [&](auto value) {
      using T = decltype(value);
      return add_kernel(graph, before, added, fill_elements<T>, static_cast<T *>(fill.dst), value, count);
    };
    if (fill.elementSize == 4) return of(fill.value);
    return fill.elementSize == 2 ? of(static_cast<uint16_t>(fill.value)) : of(static_cast<uint8_t>(fill.value));
  });
}

cudaError_t replace_copy(cudaGraph_t graph, cudaGraphNode_t node) {
  cudaMemcpy3DParms copy{};
  if (const cudaError_t error = cudaGraphMemcpyNodeGetParams(node, &copy)) return error;
  const auto is_start = [](const cudaPos &at) { return at.x == 0 && at.y == 0 && at.z == 0; };
  const bool linear = copy.srcArray == nullptr && copy.dstArray == nullptr && is_start(copy.srcPos) &&
                      is_start(copy.dstPos) && copy.extent.height == 1 && copy.extent.depth == 1;
  const size_t bytes = copy.extent.width;
  if (!linear || bytes > kLargest) return cudaSuccess;
  for (const void *memory : {copy.srcPtr.ptr, copy.dstPtr.ptr}) { /* as the kernel will access it */
    cudaPointerAttributes of{};
    if (const cudaError_t error = cudaPointerGetAttributes(&of, memory)) return error;
    if (of.devicePointer != memory) return cudaSuccess;
  }
  const auto together =
      reinterpret_cast<uintptr_t>(copy.srcPtr.ptr) | reinterpret_cast<uintptr_t>(copy.dstPtr.ptr) | bytes;
  return replace(graph, node, [&](const std::vector<cudaGraphNode_t> &before, cudaGraphNode_t *added) {
    auto of = [&](auto element) {
      using T = decltype(element);
      return add_kernel(graph, before, added, copy_elements<T>, static_cast<T *>(copy.dstPtr.ptr),
                        static_cast<const T *>(copy.srcPtr.ptr), static_cast<uint32_t>(bytes / sizeof(T)));
    };
    if (together % sizeof(uint4) == 0) return of(uint4{});
    return together % sizeof(uint32_t) == 0 ? of(uint32_t{}) : of(uint8_t{});
  });
}

cudaError_t replace_all(cudaGraph_t graph) {
  std::vector<cudaGraphNode_t> nodes;
  auto list = [&](cudaGraphNode_t *of_graph, size_t *count) { return cudaGraphGetNodes(graph, of_graph, count); };
  if (const cudaError_t error = nodes_of(list, nodes)) return error;
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    if (const cudaError_t error = cudaGraphNodeGetType(node, &type)) return error;
    cudaError_t error = cudaSuccess;
    if (type == cudaGraphNodeTypeMemset) error = replace_fill(graph, node);
    if (type == cudaGraphNodeTypeMemcpy) error = replace_copy(graph, node);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace esp

int32_t esp_prepare_graph(void *graph) {
  const cudaError_t error = esp::replace_all(static_cast<cudaGraph_t>(graph));
  if (error == cudaSuccess) return ESP_OK;
  return esp::fail(ESP_DEVICE_ERROR, "preparing a graph: %s", cudaGetErrorString(error));
}

#else

/* The graphs of the emulator are lists of work without nodes. */
int32_t esp_prepare_graph(void *) { return ESP_OK; }

#endif
