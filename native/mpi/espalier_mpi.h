/*
 * What Espalier needs of MPI, without MPI's types: those of Open MPI are pointers and those of MPICH integers, so Java
 * binds this header and espalier_mpi.c is compiled against whichever MPI started the job.
 *
 * All ranks call these functions in the same order. Each returns 0, or another number where MPI failed;
 * esp_mpi_error() then says how. Memory is the host's.
 */
#ifndef ESPALIER_MPI_H
#define ESPALIER_MPI_H

#include <stdint.h>

#define ESP_MPI_API __attribute__((visibility("default")))

/* Joins the job. Once a process, before all else. */
ESP_MPI_API int esp_mpi_init(int32_t *rank, int32_t *size);

/* MPI's own name and version, one line or more. */
ESP_MPI_API const char *esp_mpi_version(void);

/* Why the last call failed. */
ESP_MPI_API const char *esp_mpi_error(void);

/* values[n] = their sum over the ranks, on all ranks; MPI chooses the order of summation. n < 2^31. */
ESP_MPI_API int esp_mpi_sum(float *values, int64_t n);

/* values[n] = the largest of the ranks', on all ranks. n < 2^31. */
ESP_MPI_API int esp_mpi_largest(int32_t *values, int64_t n);

/*
 * The first half of a sum in an order of one's own. An array of n < 2^31 floats is cut into slices of `slice` floats,
 * one for each rank, the last ones shorter or empty. theirs[r * slice ...] = this rank's slice of rank r's `mine`.
 */
ESP_MPI_API int esp_mpi_exchange(const float *mine, float *theirs, int64_t n, int64_t slice);

/* The second half: each rank has made its own slice of whole[n], and gets the others'. */
ESP_MPI_API int esp_mpi_collect(float *whole, int64_t n, int64_t slice);

/* all[r * bytes ...] = rank r's mine[bytes]. bytes < 2^31. */
ESP_MPI_API int esp_mpi_gather(const void *mine, void *all, int64_t bytes);

/* data[bytes] = rank 0's. bytes < 2^31. */
ESP_MPI_API int esp_mpi_broadcast(void *data, int64_t bytes);

/*
 * Memory of `bytes` that the ranks of a machine have in common, aligned to 64 bytes, until esp_mpi_finalize. *writer: 1
 * for the one of them that fills it. All ranks ask for as much.
 */
ESP_MPI_API int esp_mpi_share(int64_t bytes, void **memory, int32_t *writer);

/* Waits for all ranks; what writers have written by then, all see afterwards. */
ESP_MPI_API int esp_mpi_settle(void);

/* Waits for all ranks. */
ESP_MPI_API int esp_mpi_barrier(void);

/* Leaves the job, once all ranks do. */
ESP_MPI_API int esp_mpi_finalize(void);

/* Ends the job on all ranks with this exit code. May return; the caller then ends itself. From any thread. */
ESP_MPI_API void esp_mpi_abort(int32_t code);

#endif
