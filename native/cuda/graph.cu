/*
 * What a captured CUDA graph is changed into before it is instantiated.
 *
 * cuBLAS zeroes counters in its workspace before some products. As memory set nodes between kernels these cost 6.6 us
 * each on an H200, of which 0.8 are the filling: 62 of them were 1.5 % of a step. A kernel follows a kernel within
 * 0.2 us.
 */
#include "device.cuh"

#ifdef __CUDACC__
#include <vector>

namespace esp {
namespace {

constexpr size_t kLargestFill = 64 << 10; /* bytes: more is worth a copy engine, or a kernel of many blocks */

template <typename T>
__global__ void fill_elements(T *target, T value, uint32_t count) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) target[i] = value;
}

/* CUDA 12 has these functions without data of edges. */
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

/* The nodes that `list` tells of: first how many, then which. */
template <typename List>
cudaError_t nodes_of(List list, std::vector<cudaGraphNode_t> &nodes) {
  size_t count = 0;
  if (const cudaError_t error = list(nullptr, &count)) return error;
  nodes.resize(count);
  return count == 0 ? cudaSuccess : list(nodes.data(), &count);
}

template <typename T>
cudaError_t add_fill(cudaGraph_t graph, const std::vector<cudaGraphNode_t> &before, const cudaMemsetParams &fill,
                     cudaGraphNode_t *added) {
  T *target = static_cast<T *>(fill.dst);
  T value = static_cast<T>(fill.value);
  auto count = static_cast<uint32_t>(fill.width);
  void *arguments[] = {&target, &value, &count};
  cudaKernelNodeParams kernel{};
  kernel.func = reinterpret_cast<void *>(fill_elements<T>);
  kernel.gridDim = dim3(1);
  kernel.blockDim = dim3(kThreads);
  kernel.kernelParams = arguments;
  return cudaGraphAddKernelNode(added, graph, before.data(), before.size(), &kernel);
}

/* Puts a kernel in the place of a node that fills memory, if it is a small one. */
cudaError_t replace_fill(cudaGraph_t graph, cudaGraphNode_t node) {
  cudaMemsetParams fill{};
  if (const cudaError_t error = cudaGraphMemsetNodeGetParams(node, &fill)) return error;
  if (fill.height != 1 || fill.width * fill.elementSize > kLargestFill) return cudaSuccess;
  std::vector<cudaGraphNode_t> before, behind;
  auto list_before = [&](cudaGraphNode_t *nodes, size_t *count) { return dependencies(node, nodes, count); };
  auto list_behind = [&](cudaGraphNode_t *nodes, size_t *count) { return dependents(node, nodes, count); };
  if (const cudaError_t error = nodes_of(list_before, before)) return error;
  if (const cudaError_t error = nodes_of(list_behind, behind)) return error;
  cudaGraphNode_t added = nullptr;
  const cudaError_t error = fill.elementSize == 4   ? add_fill<uint32_t>(graph, before, fill, &added)
                            : fill.elementSize == 2 ? add_fill<uint16_t>(graph, before, fill, &added)
                                                    : add_fill<uint8_t>(graph, before, fill, &added);
  if (error != cudaSuccess) return error;
  const std::vector<cudaGraphNode_t> from(behind.size(), added);
  if (const cudaError_t linked = add_dependencies(graph, from.data(), behind.data(), behind.size())) return linked;
  return cudaGraphDestroyNode(node);
}

cudaError_t replace_fills(cudaGraph_t graph) {
  std::vector<cudaGraphNode_t> nodes;
  auto list = [&](cudaGraphNode_t *of_graph, size_t *count) { return cudaGraphGetNodes(graph, of_graph, count); };
  if (const cudaError_t error = nodes_of(list, nodes)) return error;
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    if (const cudaError_t error = cudaGraphNodeGetType(node, &type)) return error;
    if (type != cudaGraphNodeTypeMemset) continue;
    if (const cudaError_t error = replace_fill(graph, node)) return error;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace esp

int32_t esp_prepare_graph(void *graph) {
  const cudaError_t error = esp::replace_fills(static_cast<cudaGraph_t>(graph));
  if (error == cudaSuccess) return ESP_OK;
  return esp::fail(ESP_DEVICE_ERROR, "preparing a graph: %s", cudaGetErrorString(error));
}

#else

/* The emulator's graphs are lists of work without nodes. */
int32_t esp_prepare_graph(void *) { return ESP_OK; }

#endif
