/*
 * Where the __shared__ variables of a library of kernels lie. They are `static thread_local` and never initialised. So
 * the linker puts them into the part of the library's thread-local block that is zeroed and not copied from the file.
 * The only other thing of the library there is the text of esp_last_error(), which is preserved. Whoever adds a
 * thread_local variable to native/cuda must know that it is lost at every launch.
 */
#include <link.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "block.h"
#include "espalier.h"

namespace emulator {
namespace {

int find(dl_phdr_info *module, size_t, void *result) {
  const auto here = reinterpret_cast<ElfW(Addr)>(&library);
  bool contains = false;
  for (int i = 0; i < module->dlpi_phnum; i++) {
    const ElfW(Phdr) &segment = module->dlpi_phdr[i];
    const ElfW(Addr) begin = module->dlpi_addr + segment.p_vaddr;
    contains |= segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz;
  }
  if (!contains) return 0;
  for (int i = 0; i < module->dlpi_phnum; i++) {
    const ElfW(Phdr) &segment = module->dlpi_phdr[i];
    if (segment.p_type != PT_TLS) continue;
    char *block = static_cast<char *>(module->dlpi_tls_data);
    *static_cast<Range *>(result) = {block + segment.p_filesz, block + segment.p_memsz};
  }
  return 1;
}

Range shared_variables() {
  Range range{};
  esp_last_error(); /* so that this thread has its copy */
  dl_iterate_phdr(find, &range);
  return range;
}

constexpr char kUnwritten = static_cast<char>(0xff);

/* The text of esp_last_error(), which lies among the variables but is none. While an object of this class exists it
 * looks as if it were not written. */
class ErrorText {
 public:
  ErrorText() : text(const_cast<char *>(esp_last_error())), kept(text) {
    std::memset(text, kUnwritten, kept.size() + 1);
  }
  ~ErrorText() { std::memcpy(text, kept.c_str(), kept.size() + 1); }
  ErrorText(const ErrorText &) = delete;
  ErrorText &operator=(const ErrorText &) = delete;

 private:
  char *text;
  std::string kept;
};

void poison(Range range) {
  const ErrorText none;
  std::memset(range.begin, kUnwritten, static_cast<size_t>(range.end - range.begin));
}

Range written(Range range) {
  const ErrorText none;
  constexpr std::ptrdiff_t kPage = 4096;
  static const std::vector<char> unwritten(kPage, kUnwritten);
  const auto is_unwritten = [](const char *begin, const char *end) {
    return std::memcmp(begin, unwritten.data(), static_cast<size_t>(end - begin)) == 0;
  };
  const auto step = [&] { return std::min<std::ptrdiff_t>(range.end - range.begin, kPage); };
  while (range.begin < range.end && is_unwritten(range.begin, range.begin + step())) range.begin += step();
  while (range.begin < range.end && is_unwritten(range.end - step(), range.end)) range.end -= step();
  return range;
}

}  // namespace

const Library library = {shared_variables, poison, written};

}  // namespace emulator
