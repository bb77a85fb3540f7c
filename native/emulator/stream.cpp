/* Streams, events and graphs of the stand-in runtime (see runtime.h). */
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>
#include <thread>

#include "arena.h"
#include "controls.h"
#include "runtime.h"

using emulator::Work;
using Clock = std::chrono::steady_clock;

struct CUgraph_st {
  std::vector<Work> work;
};

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Work>> work;
};

namespace emulator {
namespace {

struct Item {
  cudaStream_t stream;
  Work work;
};

/* Work in the order in which it is done: what is at the front runs first. */
struct Queue {
  std::deque<Item> items;
};

/* A capture of one stream, and of those that have waited for what it captured. It has the work of all of them, in the
 * order of the calls. */
struct Capture {
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalid = false;
  std::vector<Work> work;
  std::set<cudaStream_t> unjoined; /* streams with work that the origin does not wait for */
};

}  // namespace
}  // namespace emulator

struct CUstream_st {
  bool blocking;
  std::shared_ptr<emulator::Queue> queue;
  std::shared_ptr<emulator::Capture> capture;
};

struct CUevent_st {
  bool recorded = false;
  std::shared_ptr<emulator::Capture> capture; /* the capture that its last recording is part of */
  uint64_t asked = 0, done = 0;               /* how often it was recorded, and how often that was reached */
  cudaStream_t stream = nullptr;
  Clock::time_point time;
};

namespace emulator {
namespace {

bool deferred_at_start() {
  const char *mode = std::getenv("ESPALIER_EMULATOR_STREAMS");
  return mode == nullptr || std::strcmp(mode, "eager") != 0;
}

bool deferred = deferred_at_start();

/* The queue of the legacy stream, and of all streams that wait for it. */
std::shared_ptr<Queue> legacy = std::make_shared<Queue>();

std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;
std::set<cudaGraph_t> graphs;
std::set<cudaGraphExec_t> execs;

bool is_legacy(cudaStream_t stream) { return reinterpret_cast<uintptr_t>(stream) <= 1; }

Queue &queue_of(cudaStream_t stream) { return is_legacy(stream) ? *legacy : *stream->queue; }

/* Runs the queue until `until()` holds or nothing is left. */
template <typename Condition>
cudaError_t run_queue(Queue &queue, Condition until) {
  const DeviceAccess access;
  while (!queue.items.empty() && !until()) {
    const Work work = std::move(queue.items.front().work);
    queue.items.pop_front();
    if (const cudaError_t error = sticky()) return error;
    if (const cudaError_t error = work()) {
      set_sticky(error);
      return error;
    }
  }
  return sticky();
}

cudaError_t after_waiting(cudaError_t error) {
  if (error != cudaSuccess || check_guards()) return error;
  set_sticky(cudaErrorIllegalAddress);
  return cudaErrorIllegalAddress;
}

/* The capture that forbids calls which cannot be captured: this thread's own, or that of any thread if it is global. */
Capture *forbidding_capture() {
  for (cudaStream_t stream : streams) {
    Capture *capture = stream->capture.get();
    if (capture == nullptr || capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (capture->mode == cudaStreamCaptureModeGlobal || capture->thread == std::this_thread::get_id()) return capture;
  }
  return nullptr;
}

Capture *capture_of(cudaStream_t stream) { return is_legacy(stream) ? nullptr : stream->capture.get(); }

Work all_of(std::shared_ptr<const std::vector<Work>> list) {
  return [list] {
    for (const Work &work : *list) {
      if (const cudaError_t error = work()) return error;
    }
    return cudaSuccess;
  };
}

Work reaching(cudaEvent_t event, uint64_t recording) {
  return [=] {
    if (events.count(event) == 0 || event->done >= recording) return cudaSuccess;
    return run_queue(queue_of(event->stream), [=] { return event->done >= recording; });
  };
}

/* Brings a stream into the capture of the event that it waits for. Work is captured in an order that respects every
 * wait. */
cudaError_t wait_in_capture(cudaStream_t stream, const CUevent_st &event) {
  const std::shared_ptr<Capture> &capture = event.capture;
  if (is_legacy(stream) || capture->origin == nullptr) return cudaErrorStreamCaptureIsolation;
  if (stream->capture == nullptr) stream->capture = capture;
  if (stream->capture != capture) return cudaErrorStreamCaptureIsolation;
  if (stream == capture->origin) {
    capture->unjoined.erase(event.stream);
  } else {
    capture->unjoined.insert(stream);
  }
  return cudaSuccess;
}

}  // namespace

bool is_stream(cudaStream_t stream) { return is_legacy(stream) || streams.count(stream) > 0; }

bool is_capturing(cudaStream_t stream) { return is_stream(stream) && capture_of(stream) != nullptr; }

cudaError_t refuse_during_capture() {
  Capture *capture = forbidding_capture();
  if (capture == nullptr) return cudaSuccess;
  capture->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t refuse_legacy_during_capture() {
  for (cudaStream_t stream : streams) {
    if (!stream->blocking || stream->capture == nullptr) continue;
    stream->capture->invalid = true;
    return cudaErrorStreamCaptureImplicit;
  }
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, Work work) {
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (is_legacy(stream)) {
    if (const cudaError_t error = refuse_legacy_during_capture()) return error;
  }
  if (Capture *capture = capture_of(stream)) {
    if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
    capture->work.push_back(std::move(work));
    if (stream != capture->origin) capture->unjoined.insert(stream);
    return cudaSuccess;
  }
  queue_of(stream).items.push_back({stream, std::move(work)});
  return deferred ? cudaSuccess : run_stream(stream);
}

cudaError_t run_stream(cudaStream_t stream) {
  const DeviceAccess access;
  Queue &queue = queue_of(stream);
  const auto mine = [&] {
    for (const Item &item : queue.items) {
      if (is_legacy(stream) || item.stream == stream) return false;
    }
    return true;
  };
  return after_waiting(run_queue(queue, mine));
}

cudaError_t run_everything() {
  const DeviceAccess access;
  const auto never = [] { return false; };
  cudaError_t error = run_queue(*legacy, never);
  for (cudaStream_t stream : streams) {
    const cudaError_t own = run_queue(*stream->queue, never);
    if (error == cudaSuccess) error = own;
  }
  return after_waiting(error);
}

void forget_work() {
  legacy->items.clear();
  for (cudaStream_t stream : streams) {
    stream->queue->items.clear();
    stream->capture.reset();
  }
}

int64_t live_handles(const std::string &kind) {
  const size_t count = kind == "stream"  ? streams.size()
                       : kind == "event" ? events.size()
                       : kind == "graph" ? graphs.size()
                       : kind == "exec"  ? execs.size()
                                         : 0;
  return static_cast<int64_t>(count);
}

}  // namespace emulator

using emulator::call;
using emulator::call_release;
using emulator::events;
using emulator::execs;
using emulator::graphs;
using emulator::streams;

cudaError_t cudaDeviceSynchronize() {
  return call("cudaDeviceSynchronize", [] {
    if (const cudaError_t error = emulator::refuse_during_capture()) return error;
    return emulator::run_everything();
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return call("cudaStreamCreateWithFlags", [&] {
    if (stream == nullptr || flags > cudaStreamNonBlocking) return cudaErrorInvalidValue;
    const bool blocking = flags == cudaStreamDefault;
    *stream = new CUstream_st{blocking, blocking ? emulator::legacy : std::make_shared<emulator::Queue>(), nullptr};
    streams.insert(*stream);
    return cudaSuccess;
  });
}

/* CUDA lets the stream's work end before the stream goes. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call_release("cudaStreamDestroy", [&] {
    if (streams.count(stream) == 0) return cudaErrorInvalidResourceHandle;
    const cudaError_t error = emulator::run_stream(stream);
    streams.erase(stream);
    delete stream;
    return error;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call("cudaStreamSynchronize", [&] {
    if (!emulator::is_stream(stream)) return cudaErrorInvalidResourceHandle;
    if (emulator::Capture *capture = emulator::capture_of(stream)) {
      capture->invalid = true;
      return cudaErrorStreamCaptureUnsupported;
    }
    if (emulator::is_legacy(stream)) {
      if (const cudaError_t error = emulator::refuse_legacy_during_capture()) return error;
    }
    return emulator::run_stream(stream);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return call("cudaStreamWaitEvent", [&] {
    if (flags != 0) return cudaErrorInvalidValue;
    if (!emulator::is_stream(stream) || events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    if (!event->recorded) return cudaSuccess;
    if (event->capture != nullptr) return emulator::wait_in_capture(stream, *event);
    return emulator::enqueue(stream, emulator::reaching(event, event->asked));
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call("cudaStreamBeginCapture", [&] {
    if (!emulator::is_stream(stream)) return cudaErrorInvalidResourceHandle;
    if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
    if (emulator::is_legacy(stream)) return cudaErrorStreamCaptureUnsupported;
    if (stream->capture != nullptr) return cudaErrorIllegalState;
    stream->capture.reset(new emulator::Capture{stream, mode, std::this_thread::get_id(), false, {}, {}});
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  return call("cudaStreamEndCapture", [&] {
    if (graph == nullptr) return cudaErrorInvalidValue;
    if (!emulator::is_stream(stream)) return cudaErrorInvalidResourceHandle;
    emulator::Capture *capture = emulator::capture_of(stream);
    if (capture == nullptr) return cudaErrorIllegalState;
    if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
      return cudaErrorStreamCaptureWrongThread;
    }
    const std::shared_ptr<emulator::Capture> ended = stream->capture;
    ended->origin = nullptr;
    for (cudaStream_t other : streams) {
      if (other->capture == ended) other->capture.reset();
    }
    *graph = nullptr;
    if (ended->invalid) return cudaErrorStreamCaptureInvalidated;
    if (!ended->unjoined.empty()) return cudaErrorStreamCaptureUnjoined;
    *graph = new CUgraph_st{std::move(ended->work)};
    graphs.insert(*graph);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
  return call("cudaStreamIsCapturing", [&] {
    if (status == nullptr) return cudaErrorInvalidValue;
    if (!emulator::is_stream(stream)) return cudaErrorInvalidResourceHandle;
    const emulator::Capture *capture = emulator::capture_of(stream);
    *status = capture == nullptr ? cudaStreamCaptureStatusNone
              : capture->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
  return call("cudaEventCreate", [&] {
    if (event == nullptr) return cudaErrorInvalidValue;
    *event = new CUevent_st;
    events.insert(*event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call_release("cudaEventDestroy", [&] {
    if (events.erase(event) == 0) return cudaErrorInvalidResourceHandle;
    delete event;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&] {
    if (events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    const bool captured = emulator::is_capturing(stream);
    const uint64_t recording = event->asked + 1;
    const cudaError_t error = emulator::enqueue(stream, [=] {
      if (events.count(event) == 0) return cudaSuccess;
      event->done = recording;
      event->time = Clock::now();
      return cudaSuccess;
    });
    if (error != cudaSuccess) return error;
    event->asked = recording;
    event->recorded = true;
    event->capture = captured ? stream->capture : nullptr;
    event->stream = stream;
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call("cudaEventSynchronize", [&] {
    if (events.count(event) == 0) return cudaErrorInvalidResourceHandle;
    if (event->capture != nullptr) return cudaErrorCapturedEvent;
    if (!event->recorded) return cudaSuccess;
    return emulator::after_waiting(emulator::reaching(event, event->asked)());
  });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call("cudaEventElapsedTime", [&] {
    if (milliseconds == nullptr) return cudaErrorInvalidValue;
    for (cudaEvent_t event : {start, end}) {
      if (events.count(event) == 0 || !event->recorded) return cudaErrorInvalidResourceHandle;
      if (event->capture != nullptr) return cudaErrorCapturedEvent;
    }
    if (start->done < start->asked || end->done < end->asked) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
  return call("cudaGraphInstantiate", [&] {
    if (exec == nullptr || graphs.count(graph) == 0) return cudaErrorInvalidValue;
    *exec = new CUgraphExec_st{std::make_shared<const std::vector<Work>>(graph->work)};
    execs.insert(*exec);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return call("cudaGraphLaunch", [&] {
    if (execs.count(exec) == 0) return cudaErrorInvalidValue;
    return emulator::enqueue(stream, emulator::all_of(exec->work));
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call_release("cudaGraphDestroy", [&] {
    if (graphs.erase(graph) == 0) return cudaErrorInvalidValue;
    delete graph;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return call_release("cudaGraphExecDestroy", [&] {
    if (execs.erase(exec) == 0) return cudaErrorInvalidValue;
    delete exec;
    return cudaSuccess;
  });
}

void espalier_emulator_defer(int32_t deferred) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  emulator::deferred = deferred != 0;
}
