/* espalier_mpi.h over the MPI that this is compiled against: mpicc -shared -fPIC espalier_mpi.c */
#include "espalier_mpi.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

static char error[MPI_MAX_ERROR_STRING] = "no error";
static int rank, size;

static int check(int code) {
  if (code != MPI_SUCCESS) {
    int length = 0;
    MPI_Error_string(code, error, &length);
  }
  return code;
}

int esp_mpi_init(int32_t *own_rank, int32_t *ranks) {
  int code, provided;
  /* A watching thread may abort the job while another waits for a message. */
  if ((code = check(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided)))) return code;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if ((code = check(MPI_Comm_rank(MPI_COMM_WORLD, &rank)))) return code;
  if ((code = check(MPI_Comm_size(MPI_COMM_WORLD, &size)))) return code;
  *own_rank = rank;
  *ranks = size;
  return 0;
}

const char *esp_mpi_version(void) {
  static char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(version, &length);
  return version;
}

const char *esp_mpi_error(void) { return error; }

int esp_mpi_sum(float *values, int64_t n) {
  return check(MPI_Allreduce(MPI_IN_PLACE, values, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD));
}

int esp_mpi_largest(int32_t *values, int64_t n) {
  return check(MPI_Allreduce(MPI_IN_PLACE, values, (int)n, MPI_INT32_T, MPI_MAX, MPI_COMM_WORLD));
}

/* How much of n floats is in slice r. */
static int slice_length(int64_t n, int64_t slice, int r) {
  int64_t left = n - r * slice;
  return (int)(left < 0 ? 0 : left < slice ? left : slice);
}

/* Counts and displacements of all slices, of a whole array and of `size` copies of one slice; freed as one. */
typedef struct {
  int *length, *offset, *own_length, *own_offset;
} Slices;

static int cut(int64_t n, int64_t slice, Slices *s) {
  int *memory = malloc(4 * (size_t)size * sizeof(int));
  if (!memory) {
    strcpy(error, "out of memory");
    return MPI_ERR_NO_MEM;
  }
  *s = (Slices){memory, memory + size, memory + 2 * size, memory + 3 * size};
  for (int r = 0; r < size; r++) {
    s->length[r] = slice_length(n, slice, r);
    s->offset[r] = s->length[r] ? (int)(r * slice) : 0;
    s->own_length[r] = slice_length(n, slice, rank);
    s->own_offset[r] = s->own_length[r] ? (int)(r * slice) : 0;
  }
  return 0;
}

int esp_mpi_exchange(const float *mine, float *theirs, int64_t n, int64_t slice) {
  Slices s;
  int code = cut(n, slice, &s);
  if (code) return code;
  code = check(MPI_Alltoallv(mine, s.length, s.offset, MPI_FLOAT, theirs, s.own_length, s.own_offset, MPI_FLOAT,
                             MPI_COMM_WORLD));
  free(s.length);
  return code;
}

int esp_mpi_collect(float *whole, int64_t n, int64_t slice) {
  Slices s;
  int code = cut(n, slice, &s);
  if (code) return code;
  code =
      check(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, whole, s.length, s.offset, MPI_FLOAT, MPI_COMM_WORLD));
  free(s.length);
  return code;
}

int esp_mpi_gather(const void *mine, void *all, int64_t bytes) {
  return check(MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD));
}

int esp_mpi_broadcast(void *data, int64_t bytes) {
  return check(MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD));
}

/* What esp_mpi_share gave out. */
static MPI_Win *windows;
static int window_count;

int esp_mpi_share(int64_t bytes, void **memory, int32_t *writer) {
  static MPI_Comm machine = MPI_COMM_NULL;
  const int alignment = 64;
  MPI_Win *more = realloc(windows, (size_t)(window_count + 1) * sizeof(MPI_Win)), *window = more + window_count;
  MPI_Aint size;
  int code, own_rank, unit;
  void *own;
  if (!more) {
    strcpy(error, "out of memory");
    return MPI_ERR_NO_MEM;
  }
  windows = more;
  if (machine == MPI_COMM_NULL &&
      (code = check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine)))) {
    return code;
  }
  if ((code = check(MPI_Comm_rank(machine, &own_rank)))) return code;
  *writer = own_rank == 0;
  size = *writer ? (MPI_Aint)bytes + alignment : 0;
  if ((code = check(MPI_Win_allocate_shared(size, 1, MPI_INFO_NULL, machine, &own, window)))) return code;
  window_count++;
  if ((code = check(MPI_Win_shared_query(*window, 0, &size, &unit, memory)))) return code;
  /* Mapped at whole pages: the same offset on all ranks. */
  *memory = (char *)*memory + (alignment - (uintptr_t)*memory % alignment) % alignment;
  return check(MPI_Win_lock_all(MPI_MODE_NOCHECK, *window));
}

static int sync_windows(void) {
  int code = 0;
  for (int i = 0; i < window_count && !code; i++) code = check(MPI_Win_sync(windows[i]));
  return code;
}

int esp_mpi_settle(void) {
  int code;
  if ((code = sync_windows())) return code;
  if ((code = esp_mpi_barrier())) return code;
  return sync_windows();
}

int esp_mpi_barrier(void) { return check(MPI_Barrier(MPI_COMM_WORLD)); }

int esp_mpi_finalize(void) {
  int code;
  while (window_count > 0) {
    MPI_Win *window = &windows[--window_count];
    if ((code = check(MPI_Win_unlock_all(*window)))) return code;
    if ((code = check(MPI_Win_free(window)))) return code;
  }
  free(windows);
  windows = NULL;
  return check(MPI_Finalize());
}

void esp_mpi_abort(int32_t code) { MPI_Abort(MPI_COMM_WORLD, code); }
