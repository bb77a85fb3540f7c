/*
 * Where the __shared__ variables of a library of kernels lie. They are `static thread_local` and never initialised, so
 * the linker puts them into the part of the library's thread-local block that is zeroed and not copied from the file;
 * nothing else of the library is there but the text of esp_last_error(), which is kept. Whoever adds a thread_local
 * variable to native/cuda must know that it is gone at every launch.
 */
#include <link.h>

#include <cstring>
#include <string>

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

void poison(Range range) {
  char *error = const_cast<char *>(esp_last_error());
  const std::string kept(error);
  std::memset(range.begin, 0xff, static_cast<size_t>(range.end - range.begin));
  kept.copy(error, kept.size());
  error[kept.size()] = 0;
}

}  // namespace

const Library library = {shared_variables, poison};

}  // namespace emulator
