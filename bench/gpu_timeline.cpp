// Writes down when each kernel, copy and fill of a process began and ended on the GPU, those inside CUDA graphs too,
// which the host cannot see, and when the host was in cudaGraphLaunch and cudaStreamSynchronize. CUDA loads this
// library into any process that has CUDA_INJECTION64_PATH set to it; the lines go to the file that TIMELINE names:
// start and end in ns, graph (0: none), correlation (that of a graph's launch is its work's, too), and name.
#include <cupti.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

constexpr size_t kBufferBytes = 8 << 20;
FILE *lines = nullptr;

void check(CUptiResult result, const char *what) {
  if (result == CUPTI_SUCCESS) return;
  const char *text = "unknown";
  cuptiGetResultString(result, &text);
  fprintf(stderr, "timeline: %s: %s\n", what, text);
  exit(98);
}

template <typename Activity>
void print(const Activity &activity, const char *name) {
  fprintf(lines, "%" PRIu64 "\t%" PRIu64 "\t%u\t%u\t%s\n", static_cast<uint64_t>(activity.start),
          static_cast<uint64_t>(activity.end), activity.graphId, activity.correlationId, name);
}

void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *most_records) {
  *buffer = static_cast<uint8_t *>(aligned_alloc(64, kBufferBytes));
  *size = kBufferBytes;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t, size_t valid) {
  CUpti_Activity *record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto &kernel = *reinterpret_cast<const CUpti_ActivityKernel10 *>(record);
        print(kernel, kernel.name);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY:
        print(*reinterpret_cast<const CUpti_ActivityMemcpy6 *>(record), "copy");
        break;
      case CUPTI_ACTIVITY_KIND_MEMSET:
        print(*reinterpret_cast<const CUpti_ActivityMemset4 *>(record), "fill");
        break;
      case CUPTI_ACTIVITY_KIND_RUNTIME: {
        const auto &api = *reinterpret_cast<const CUpti_ActivityAPI *>(record);
        const char *name = nullptr;
        cuptiGetCallbackName(CUPTI_CB_DOMAIN_RUNTIME_API, api.cbid, &name);
        for (const char *wanted : {"cudaGraphLaunch", "cudaStreamSynchronize"}) {
          if (name == nullptr || strncmp(name, wanted, strlen(wanted)) != 0) continue;
          fprintf(lines, "%" PRIu64 "\t%" PRIu64 "\t0\t%u\t%s\n", static_cast<uint64_t>(api.start),
                  static_cast<uint64_t>(api.end), api.correlationId, wanted);
        }
        break;
      }
      default:
        break;
    }
  }
  size_t dropped = 0;
  cuptiActivityGetNumDroppedRecords(context, stream, &dropped);
  if (dropped != 0) fprintf(stderr, "timeline: %zu records lost\n", dropped);
  free(buffer);
}

void finish() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  fclose(lines);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  const char *path = getenv("TIMELINE");
  if (path == nullptr || (lines = fopen(path, "w")) == nullptr) {
    fprintf(stderr, "timeline: TIMELINE names no file that can be written\n");
    return 0;
  }
  check(cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "callbacks");
  check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "kernels");
  check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY), "copies");
  check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET), "fills");
  check(cuptiActivityEnable(CUPTI_ACTIVITY_KIND_RUNTIME), "calls");
  atexit(finish);
  return 1;
}
