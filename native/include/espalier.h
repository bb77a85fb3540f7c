/*
 * Espalier's kernels: every declaration with its contract. This header is the single source of truth; native/cpu
 * implements it for the host, native/cuda for NVIDIA GPUs under the same names, and jextract turns it into the Java
 * bindings.
 *
 * Conventions
 *   - Matrices are row-major. [r, c] is a shape; `ld` is the distance between rows in elements (ld >= c); without an
 *     `ld` the rows are contiguous.
 *   - Activations, their gradients and matrices of weights are `void *`: their elements have the type that the last
 *     argument, `dtype`, names: ESP_F32 or ESP_BF16. Everything else is float32 or as declared: statistics, losses,
 *     vectors of weights (norms, biases, thresholds), values of latents, gradients of parameters, optimizer state.
 *     Arithmetic on bfloat16 is in float32 (float64 where said), rounded once when stored.
 *   - `tokens` counts rows of a packed batch: batch sequences of seq_len tokens each, one after another.
 *   - Pointers are device memory of the library's kind. Scratch memory is the caller's. Besides, the CPU's kernels keep
 *     memory of their own in each calling thread, for copies of parts of operands and for sums.
 *   - `accumulate`: 0 overwrites the output, 1 adds to it. Gradients of parameters (d_weight, d_table, ...) are
 *     always added to, so that micro-batches accumulate.
 *   - NULL is allowed only where a contract says "or NULL". Outputs do not overlap inputs unless a contract says so.
 *   - (+)= stands for what `accumulate` chooses: = or +=.
 *   - Every function returns ESP_OK or a negative status; esp_last_error() then explains it, per calling thread.
 *   - Results do not depend on the number of threads: work is cut by shape alone, and every reduction has a fixed
 *     order. The same inputs give the same bits on one machine.
 *   - Sums over tokens and normalisation statistics are accumulated in float64 or by compensated/blocked float32.
 */
#ifndef ESPALIER_H
#define ESPALIER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ESP_API __attribute__((visibility("default")))
#else
#define ESP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a declaration below changes; the loader compares it with the bindings' value. */
#define ESP_ABI_VERSION 9

typedef enum {
  ESP_OK = 0,
  ESP_INVALID_ARGUMENT = -1, /* a size, flag or pointer breaks the contract */
  ESP_CAPACITY = -2,         /* a latent list is too short for its active latents */
  ESP_NOT_READY = -3,        /* esp_set_gemm has not been called */
  ESP_DEVICE_ERROR = -4      /* the GPU or its libraries failed; esp_last_error() has their words */
} esp_status;

/* ---- library ------------------------------------------------------------------------------------------------ */

ESP_API int32_t esp_abi_version(void);
/* Where the library's kernels run, and whose memory they take. */
typedef enum { ESP_CPU = 0, ESP_CUDA = 1 } esp_backend;
ESP_API int32_t esp_library_backend(void);
/* What the last failing call of this thread complained about; "" if none failed. Owned by the library. */
ESP_API const char *esp_last_error(void);
/* ESP_CUDA: the function that computes dense products, cublasGemmEx, and a cuBLAS handle that works on the library's
 * stream. NULL for ESP_CPU, whose products are its own. */
ESP_API int32_t esp_set_gemm(void *function, void *handle);
/* ESP_CUDA: the cudaStream_t that kernels go to from now on; they return before they have run. NULL for ESP_CPU. */
ESP_API int32_t esp_set_stream(void *stream);
/* ESP_CUDA: makes a captured cudaGraph_t faster before it is instantiated; what it computes stays. */
ESP_API int32_t esp_prepare_graph(void *graph);
/* Threads that kernels use from now on, 1 or more; 0: as many as OMP_NUM_THREADS said at the first call, or else as
 * there are processors that this process may use. */
ESP_API int32_t esp_set_threads(int32_t threads);
ESP_API int32_t esp_threads(void);

/* Copies between memory of the host and of the library's device, in either direction or within one of them, after all
 * work that was queued before, and waits until it is done. Not for the inside of a step. */
ESP_API int32_t esp_transfer(void *target, const void *source, int64_t bytes);

/* ---- dense products ----------------------------------------------------------------------------------------- */

typedef enum { ESP_F32 = 0, ESP_BF16 = 1, ESP_F16 = 2, ESP_F64 = 3 } esp_dtype;

/* How the device multiplies matrices of that type: 2 with a matrix unit (AMX, tensor cores), 1 with vector instructions
 * (for bfloat16: VDPBF16PS), 0 without instructions for it. Kernels accept ESP_BF16 even then, but are slower than with
 * ESP_F32. */
ESP_API int32_t esp_has_products(int32_t dtype);

/* c[m, n] = alpha * op(a) op(b) + beta * c; op transposes where the flag is 1. op(a) is [m, k], op(b) is [k, n].
 * beta = 0 never reads c. a and b are of type `dtype`, c of type `dtype_c`: the same, or ESP_F32. */
ESP_API int32_t esp_gemm(int32_t trans_a, int32_t trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                         int64_t lda, const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c,
                         int32_t dtype);

/* A low-rank term of a linear map: columns [from, from + n) of its result get scale * u op(v), with u [m, r]; op(v) is
 * [r, n]. */
typedef struct {
  const void *u;
  int64_t ld_u;
  const void *v;
  int64_t ld_v;
  int64_t from, n, r;
  float scale;
  int32_t reserved;
} esp_low_rank;
enum { ESP_LARGEST_TERMS = 8 };

/* How esp_linear computes. What can be chosen beside ESP_BY_SHAPE depends on device, type, sizes and alignment. */
typedef enum {
  ESP_BY_SHAPE = 0,     /* the fastest, by a rule */
  ESP_SEPARATE = 1,     /* a product for the map, one for each term, added to it */
  ESP_FUSED_NARROW = 2, /* one kernel on tensor cores, tiles of 128 x 128 */
  ESP_FUSED_WIDE = 3,   /* tiles of 128 x 256 */
  ESP_EXTRA_COLUMNS = 4 /* one product, of which the terms are more columns of K: where they lie so in memory */
} esp_linear_way;

/* y[m, n] = x op(w) + beta * y + the terms; op(w) is [k, n]. w and all v are transposed if the flag is 1: w is then
 * [n, k], a term's v [n, r]; else [k, n] and [r, n]. beta = 0 never reads y. terms: `count` of them in the host's
 * memory, at most ESP_LARGEST_TERMS, read before the call returns; their columns do not overlap. y is rounded after
 * each product (ESP_CUDA, ESP_SEPARATE), or once.
 * ESP_EXTRA_COLUMNS computes y = [x u_1 u_2 ..] op([w v_1 v_2 ..]) + beta * y and needs this layout: the first u lies
 * right of x, each other one right of the one before (u_1 = x + k, ld_u = ldx >= k + all r). The v extend w:
 * to its right if transposed (v_p = w + from_p * ldw + k + the ranks before, ld_v = ldw), else below it; each at its
 * term's columns of the result. All scales are 1. Where a term has no columns there must be 0 beside its v: the product
 * reads that, too. A caller who chooses this layout must keep to that with ESP_BY_SHAPE as well. */
ESP_API int32_t esp_linear(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x, int64_t ldx,
                           const void *w, int64_t ldw, const esp_low_rank *terms, int32_t count, float beta, void *y,
                           int64_t ldy, int32_t way, int32_t dtype);
/* way[0] = the way that ESP_BY_SHAPE takes with these arguments, for callers that measure whether another is faster. It
 * depends on sizes, alignment, layout, type and the kind of device, but on nothing that is timed: ways round
 * differently, and the same run must give the same bits. */
ESP_API int32_t esp_linear_by_shape(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x, int64_t ldx,
                                    const void *w, int64_t ldw, const esp_low_rank *terms, int32_t count, const void *y,
                                    int64_t ldy, int32_t dtype, int32_t *way);

/* ---- elementwise and reductions ----------------------------------------------------------------------------- */

ESP_API int32_t esp_fill(float *x, float value, int64_t n);
/* x [rows, cols] uniform in (-bound, bound); element (r, c) depends on (seed, r * cols + c) alone and, before it is
 * rounded to the type, has the same bits on every device. For weights that stand for a model's where only their shapes
 * matter. */
ESP_API int32_t esp_fill_uniform(void *x, int64_t ldx, float bound, uint64_t seed, int64_t rows, int64_t cols,
                                 int32_t dtype);
ESP_API int32_t esp_copy(const void *x, void *out, int64_t n, int32_t dtype);
/* out = x + y; out may be x or y. */
ESP_API int32_t esp_add(const void *x, const void *y, void *out, int64_t n, int32_t dtype);
/* y += alpha * x */
ESP_API int32_t esp_axpy(float alpha, const void *x, void *y, int64_t n, int32_t dtype);
/* Every row of out becomes `row`: [cols]. */
ESP_API int32_t esp_fill_rows(const float *row, void *out, int64_t rows, int64_t cols, int32_t dtype);
/* out[c] += alpha * sum over rows r with skip[r] == 0 of x[r, c]; skip: [rows] bytes or NULL. */
ESP_API int32_t esp_column_sum(const void *x, int64_t ldx, const uint8_t *skip, float alpha, float *out, int64_t rows,
                               int64_t cols, int32_t dtype);
/* out[r] = x[r] where keep[r], else 0; x and out: [rows, cols], keep: [rows] bytes or NULL (all 0). */
ESP_API int32_t esp_keep_rows(const void *x, const uint8_t *keep, void *out, int64_t rows, int64_t cols, int32_t dtype);
/* Compares x and y [sequences * length, d] sequence by sequence. out: [sequences, 3] (float64) = the number of rows,
 * sum |x - y|, sum cos(x, y), over the sequence's rows without skip; skip: [sequences * length] bytes or NULL. */
ESP_API int32_t esp_sequence_distance(const void *x, const void *y, const uint8_t *skip, double *out, int64_t sequences,
                                      int64_t length, int64_t d, int32_t dtype);
/* out[0] (+)= sum of x */
ESP_API int32_t esp_sum(const float *x, int64_t n, double *out, int32_t accumulate);

/* dst[i] = src[i] in another type, rounded to nearest; src holds n values of type `from`, at any alignment. */
ESP_API int32_t esp_convert(const void *src, int32_t from, void *dst, int64_t n, int32_t dtype);
/* dst[r, c] = row_scale[r] * src[r, c], or src[c, r] if transposed; dst: [rows, cols] with ld_dst, src: as many values
 * of type `from`, at any alignment. The product is rounded once. row_scale: [rows], or NULL for 1. */
ESP_API int32_t esp_convert_matrix(const void *src, int32_t from, int32_t transposed, const float *row_scale, void *dst,
                                   int64_t ld_dst, int64_t rows, int64_t cols, int32_t dtype);

/* Where a matrix [rows, cols] that begins at element `from` of flat values has its copy: `to`, with rows `ld` apart. */
typedef struct {
  int64_t from;
  void *to;
  int64_t rows, cols, ld;
} esp_place;
/* Copies matrices out of flat float32 values, rounded, each to its place. places: [count], in device memory. */
ESP_API int32_t esp_place_matrices(const float *values, const esp_place *places, int64_t count, int32_t dtype);

/* Inverted dropout: out[i] = keep(i) ? x[i] / (1 - p) : 0 for i = r * cols + c, where keep(i) depends on (seed[0],
 * stream, i) alone (counter-based), so that a backward pass calls it again on the gradient. x alone has rows ldx >=
 * cols apart. out may be x; accumulate as above. */
ESP_API int32_t esp_dropout(const void *x, int64_t ldx, void *out, int64_t rows, int64_t cols, float p,
                            const uint64_t *seed, uint64_t stream, int32_t accumulate, int32_t dtype);

/* ---- embedding ---------------------------------------------------------------------------------------------- */

/* out[t] = scale * table[ids[t]]; ids in [0, vocab). ESP_CPU refuses an id outside; ESP_CUDA, which cannot look before
 * it runs, gives its row NaN, and no gradient. */
ESP_API int32_t esp_embedding_forward(const int32_t *ids, const void *table, float scale, void *out, int64_t tokens,
                                      int64_t vocab, int64_t d, int32_t dtype);
/* d_table[ids[t]] += scale * d_out[t] */
ESP_API int32_t esp_embedding_backward(const int32_t *ids, const void *d_out, float scale, float *d_table,
                                       int64_t tokens, int64_t vocab, int64_t d, int32_t dtype);

/* out[t] = x[t] + table[t % seq_len]: learned positions. table: [seq_len or more, d]; out may be x. */
ESP_API int32_t esp_add_positions(const void *x, const void *table, void *out, int64_t tokens, int64_t seq_len,
                                  int64_t d, int32_t dtype);
/* d_table[p] += sum over tokens t with t % seq_len == p of d_out[t] */
ESP_API int32_t esp_add_positions_backward(const void *d_out, float *d_table, int64_t tokens, int64_t seq_len,
                                           int64_t d, int32_t dtype);

/* ---- RMSNorm ------------------------------------------------------------------------------------------------ */

/* out = x * rstd * (weight_offset + weight), rstd[r] = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019).
 * weight_offset: 0 for Llama, 1 for Gemma. out alone has rows ld_out >= d apart. */
ESP_API int32_t esp_rms_norm_forward(const void *x, const float *weight, float weight_offset, float eps, void *out,
                                     int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype);
/* With g = d_out * (weight_offset + weight), xhat = x * rstd:
 * d_x (+)= rstd * (g - xhat * mean(g * xhat)); d_weight += sum over rows of d_out * xhat; d_weight may be NULL. */
ESP_API int32_t esp_rms_norm_backward(const void *x, const float *weight, float weight_offset, const float *rstd,
                                      const void *d_out, void *d_x, int32_t accumulate, float *d_weight, int64_t rows,
                                      int64_t d, int32_t dtype);

/* sum = x + y, out = RMSNorm of sum, in one pass. Backward is esp_rms_norm_backward of sum, which adds to the gradient
 * that x, y and sum share. sum may be x or y. */
ESP_API int32_t esp_add_rms_norm_forward(const void *x, const void *y, const float *weight, float weight_offset,
                                         float eps, void *sum, void *out, int64_t ld_out, float *rstd, int64_t rows,
                                         int64_t d, int32_t dtype);

/* sum = x + RMSNorm of branch, out = RMSNorm of sum with its own weight, in one pass and with the bits of
 * esp_rms_norm_forward, esp_add and esp_rms_norm_forward. out may be NULL: then weight, ld_out and rstd are not read.
 * sum is none of the others. */
ESP_API int32_t esp_add_normed_forward(const void *branch, const float *branch_weight, float *branch_rstd,
                                       const void *x, void *sum, const float *weight, float weight_offset, float eps,
                                       void *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype);
/* d_sum (+)= what out's norm gives, then d_branch = what the branch's gives of d_sum, which is x's gradient too: the
 * bits of two calls of esp_rms_norm_backward. The weights' gradients are added to; either may be NULL. */
ESP_API int32_t esp_add_normed_backward(const void *sum, const float *weight, const float *rstd, const void *d_out,
                                        void *d_sum, int32_t accumulate, float *d_weight, const void *branch,
                                        const float *branch_weight, const float *branch_rstd, float weight_offset,
                                        void *d_branch, float *d_branch_weight, int64_t rows, int64_t d, int32_t dtype);

/* LayerNorm (Ba et al. 2016): out = (x - mean) * rstd * weight + bias, rstd[r] = 1 / sqrt(variance + eps). out alone
 * has rows ld_out >= d apart. */
ESP_API int32_t esp_layer_norm_forward(const void *x, const float *weight, const float *bias, float eps, void *out,
                                       int64_t ld_out, float *mean, float *rstd, int64_t rows, int64_t d,
                                       int32_t dtype);
/* With g = d_out * weight, xhat = (x - mean) * rstd: d_x (+)= rstd * (g - mean(g) - xhat * mean(g * xhat));
 * d_weight += sum over rows of d_out * xhat, d_bias += sum over rows of d_out; both given or both NULL. */
ESP_API int32_t esp_layer_norm_backward(const void *x, const float *weight, const float *mean, const float *rstd,
                                        const void *d_out, void *d_x, int32_t accumulate, float *d_weight,
                                        float *d_bias, int64_t rows, int64_t d, int32_t dtype);

/* sum = x + y, out = LayerNorm of sum, as esp_add_rms_norm_forward. */
ESP_API int32_t esp_add_layer_norm_forward(const void *x, const void *y, const float *weight, const float *bias,
                                           float eps, void *sum, void *out, int64_t ld_out, float *mean, float *rstd,
                                           int64_t rows, int64_t d, int32_t dtype);

/* RMSNorm of each head of a fused projection, for queries and keys (Henry et al. 2020). x: [tokens, (n_heads + 2
 * n_kv_heads) * head_dim], queries, then keys, then values; the weights, [head_dim], are shared by the heads of a kind.
 * out is shaped as x; values are copied. rstd: [tokens, n_heads + n_kv_heads]. */
ESP_API int32_t esp_head_norm_forward(const void *x, const float *query_weight, const float *key_weight,
                                      float weight_offset, float eps, void *out, float *rstd, int64_t tokens,
                                      int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int32_t dtype);
/* d_x, shaped as x, is overwritten and may be d_out. The weights' gradients are added to; both given or both NULL. */
ESP_API int32_t esp_head_norm_backward(const void *x, const float *query_weight, const float *key_weight,
                                       float weight_offset, const float *rstd, const void *d_out, void *d_x,
                                       float *d_query_weight, float *d_key_weight, int64_t tokens, int64_t n_heads,
                                       int64_t n_kv_heads, int64_t head_dim, int32_t dtype);

/* ---- rotary positions --------------------------------------------------------------------------------------- */

/* Rotates, in place, the first rotary_dim elements of each of n_heads heads that lie side by side in a row of x:
 * with h = rotary_dim / 2, (x[i], x[i + h]) turns by sign * angle(position, i), position = row % seq_len.
 * cos, sin: [seq_len, h]. sign: 1 forward, -1 backward (Su et al. 2021; half-split order of Hugging Face). */
ESP_API int32_t esp_rope(void *x, int64_t ldx, const float *cos, const float *sin, int32_t sign, int64_t tokens,
                         int64_t seq_len, int64_t n_heads, int64_t head_dim, int64_t rotary_dim, int32_t dtype);

/* ---- attention ---------------------------------------------------------------------------------------------- */

/* Causal grouped-query attention with online softmax; no [seq_len, seq_len] matrix is ever stored.
 * s = scale * q.k; if softcap > 0, s = softcap * tanh(s / softcap); key j is seen by query i iff j <= i and, if
 * window > 0, i - j < window. Query head h reads key/value head h / (n_heads / n_kv_heads).
 * q: [tokens, n_heads * head_dim] with ld_q; k, v: [tokens, n_kv_heads * head_dim] with ld_kv;
 * out: [tokens, n_heads * head_dim] with ld_out; lse: [tokens, n_heads], the log-sum-exp of each row of s. */
ESP_API int32_t esp_attention_forward(const void *q, int64_t ld_q, const void *k, const void *v, int64_t ld_kv,
                                      void *out, int64_t ld_out, float *lse, int64_t batch, int64_t seq_len,
                                      int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, float scale, float softcap,
                                      int64_t window, int32_t dtype);
/* Gradients of the above, overwritten. d_out is [tokens, n_heads * head_dim] contiguous; d_q as q, d_k and d_v as k and
 * v (same lds). delta: scratch [tokens, n_heads], receives rowsum(d_out * out) (Dao et al. 2022, section B.2). */
ESP_API int32_t esp_attention_backward(const void *q, int64_t ld_q, const void *k, const void *v, int64_t ld_kv,
                                       const void *out, int64_t ld_out, const float *lse, const void *d_out,
                                       float *delta, void *d_q, void *d_k, void *d_v, int64_t batch, int64_t seq_len,
                                       int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, float scale,
                                       float softcap, int64_t window, int32_t dtype);

/* ---- activation of MLPs ------------------------------------------------------------------------------------- */

/* gelu by its approximation with tanh, or x times the normal distribution function (Hendrycks & Gimpel 2016). */
typedef enum { ESP_SILU = 0, ESP_GELU_TANH = 1, ESP_GELU_ERF = 2, ESP_RELU_ACTIVATION = 3 } esp_activation;
/* out = act(x) */
ESP_API int32_t esp_activation_forward(const void *x, int32_t activation, void *out, int64_t n, int32_t dtype);
/* d_x = d_out * act'(x), overwritten; it may be d_out. The slope of relu at 0 is 0. */
ESP_API int32_t esp_activation_backward(const void *x, int32_t activation, const void *d_out, void *d_x, int64_t n,
                                        int32_t dtype);
/* gate_up: [rows, 2 * d], gate in the first half of a row, up in the second. out[rows, d] = act(gate) * up, with
 * ld_out.
 */
ESP_API int32_t esp_gated_forward(const void *gate_up, int32_t activation, void *out, int64_t ld_out, int64_t rows,
                                  int64_t d, int32_t dtype);
/* d_gate_up [rows, 2 * d] is overwritten; it may be gate_up. */
ESP_API int32_t esp_gated_backward(const void *gate_up, int32_t activation, const void *d_out, void *d_gate_up,
                                   int64_t rows, int64_t d, int32_t dtype);

/* ---- language-model head with its losses, fused over chunks of tokens --------------------------------------- */

/* Floats of scratch that each row of logits needs beside the logits themselves: so that rows can be aligned, and need
 * not lie a power of two apart. */
enum { ESP_LOGITS_ROOM = 16 };

/* Logits are z = softcap(h head^T), head: [vocab, d]; softcap(z) = cap * tanh(z / cap) if cap > 0, else z.
 * They exist for `chunk` tokens at a time only. targets[t] in [0, vocab), or negative for "no target": such rows
 * do not count. ESP_CPU refuses a target that is too large; ESP_CUDA, which cannot look before it runs, gives it the
 * loss NaN. */

/* kl[t] = KL(softmax(z_teacher) || softmax(z_student)) in nats; ce_*[t] = -log softmax(z)[targets[t]] (0 without a
 * target). d_student [tokens, d] = grad_scale * d(sum of kl) / d(student), overwritten, or NULL.
 * targets, ce_student, ce_teacher: all given or all NULL. scratch: 2 * chunk * (vocab + ESP_LOGITS_ROOM)
 * floats. */
ESP_API int32_t esp_head_kl(const void *student, const void *teacher, const void *head, float softcap,
                            const int32_t *targets, float *kl, float *ce_student, float *ce_teacher, void *d_student,
                            float grad_scale, float *scratch, int64_t chunk, int64_t tokens, int64_t d, int64_t vocab,
                            int32_t dtype);
/* ce[t] as above. d_hidden [tokens, d] = grad_scale * d(sum of ce) / d(hidden), overwritten, or NULL;
 * d_head [vocab, d] += grad_scale * d(sum of ce) / d(head), or NULL. scratch: chunk * (vocab +
 * ESP_LOGITS_ROOM) floats. */
ESP_API int32_t esp_head_ce(const void *hidden, const void *head, float softcap, const int32_t *targets, float *ce,
                            void *d_hidden, float *d_head, float grad_scale, float *scratch, int64_t chunk,
                            int64_t tokens, int64_t d, int64_t vocab, int32_t dtype);

/* ---- sparse autoencoders ------------------------------------------------------------------------------------ */

/* After encoding, latents are lists: row t holds count[t] entries, (index[t, j], value[t, j]) with indices
 * ascending, in matrices [tokens, capacity]. m latents, width d. w_enc and w_dec are both [m, d]: a latent is a row,
 * so that decoding and every gradient read whole rows. keep[t] = 1 marks positions that pass through the SAE
 * untouched (BOS, EOS): they have count 0; keep may be NULL. Where an SAE's output is not as wide as its input, d is
 * the width of the side that a kernel works on. */

typedef enum { ESP_RELU = 0, ESP_JUMPRELU = 1, ESP_TOPK = 2, ESP_GROUPMAX = 3 } esp_sae_kind;

/* z = w_enc (x - b_pre) + b_enc; b_pre: [d], or NULL where nothing is subtracted. It must be NULL in bfloat16: there
 * x - b_pre would be rounded once more, and esp_sae_fold_bias takes b_pre into b_enc instead.
 *   ESP_RELU      entries with z > 0, value z
 *   ESP_JUMPRELU  entries with z > threshold[i], value relu(z). With margin > 0 also the entries with
 *                 |z - threshold[i]| < margin (straight-through gradients need them); value 0 unless z > threshold.
 *   ESP_TOPK      the k largest z of a row (ties: the lower index), of those the positive ones, value z
 *   ESP_GROUPMAX  of each of k groups of m / k consecutive latents (k divides m) the largest z (ties: the lower
 *                 index), of those the positive ones, value z
 * A row with a NaN among its z has the one entry (0, NaN), so that the NaN reaches the loss.
 * pre: [tokens, capacity], receives z of each entry, or NULL. threshold: [m] for ESP_JUMPRELU, else NULL.
 * Dense z exists for a few rows at a time, in scratch: esp_sae_encode_scratch(d, m) floats.
 * Where a row has more entries than capacity, ESP_CPU returns ESP_CAPACITY, and count holds what each row needs.
 * ESP_CUDA cannot wait: it keeps the first `capacity` entries of such a row and raises overflow[0] to what it needs.
 * overflow: int32 [1] in device memory, or NULL; esp_control has one, which esp_adamw reads. */
ESP_API int64_t esp_sae_encode_scratch(int64_t d, int64_t m);
ESP_API int32_t esp_sae_encode(const void *x, const void *w_enc, const float *b_enc, const float *b_pre, int32_t kind,
                               const float *threshold, float margin, int64_t k, const uint8_t *keep, int32_t *index,
                               float *value, float *pre, int32_t *count, int64_t capacity, int32_t *overflow,
                               float *scratch, int64_t tokens, int64_t d, int64_t m, int32_t dtype);
/* bias = b_enc - w_enc b_pre, summed in float64: z = w_enc x + bias. [m], but b_pre: [d]; bias may be b_enc. */
ESP_API int32_t esp_sae_fold_bias(const void *w_enc, const float *b_enc, const float *b_pre, float *bias, int64_t d,
                                  int64_t m, int32_t dtype);
/* How many latents a cut into slices must keep together. If a and b are multiples of it (or b is m), z of the latents
 * [a, b), encoded alone, has the same bits as where all m are encoded. group: latents of a group of ESP_GROUPMAX, which
 * no cut may divide; else 1. ESP_CUDA promises the bits only for its own kernel (bfloat16, ESP_RELU and ESP_JUMPRELU,
 * d <= 1024): cuBLAS chooses its kernels, and with them an order of summation, by the shape of the whole product. */
ESP_API int64_t esp_sae_encode_panel(int64_t group);
/* out[t] = sum_j value[t, j] * w_dec[index[t, j]] + b_dec; rows with keep[t]: out[t] = x[t]. x: needed with keep,
 * else NULL. */
ESP_API int32_t esp_sae_decode(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                               const void *w_dec, const float *b_dec, const uint8_t *keep, const void *x, void *out,
                               int64_t tokens, int64_t d, int32_t dtype);
/* d_value[t, j] = <d_out[t], w_dec[index[t, j]]> for every entry. */
ESP_API int32_t esp_sae_decode_backward(const void *d_out, const int32_t *index, const int32_t *count, int64_t capacity,
                                        const void *w_dec, float *d_value, int64_t tokens, int64_t d, int32_t dtype);
/* d_x[t] (+)= sum_j d_pre[t, j] * w_enc[index[t, j]]; rows with keep[t]: d_x[t] (+)= d_out[t]. d_out: needed with
 * keep, else NULL. */
ESP_API int32_t esp_sae_encode_backward(const float *d_pre, const int32_t *index, const int32_t *count,
                                        int64_t capacity, const void *w_enc, const uint8_t *keep, const void *d_out,
                                        void *d_x, int32_t accumulate, int64_t tokens, int64_t d, int32_t dtype);
/* From d_value to d_pre, in place, for entries (z = pre, theta = threshold of the entry's latent), and the
 * straight-through gradient of thresholds (Rajamanoharan et al. 2024, eq. 11-12), K(u) = 1[|u| < 1/2], eps = bandwidth:
 *   d_pre            = d_value * 1[z > theta and z > 0] + l1 * 1[value > 0]
 *   d_threshold[i]  += sum over entries of -(theta * d_value + l0) / eps * K((z - theta) / eps)
 * kinds other than ESP_JUMPRELU: d_pre = d_value + l1, threshold and d_threshold unused. d_threshold may be NULL.
 * sparsity: {l1, l0}, already divided as the loss divides, in device memory as they change from step to step; NULL: 0.
 * by_latent as esp_sae_by_latent gives it; needed with d_threshold, else NULL. */
ESP_API int32_t esp_sae_activation_backward(float *d_value, const float *pre, const float *value, const int32_t *index,
                                            const int32_t *count, int64_t capacity, int32_t kind,
                                            const float *threshold, const float *sparsity, float bandwidth,
                                            float *d_threshold, const int32_t *offsets, const int32_t *by_latent,
                                            int64_t tokens, int64_t m);
/* The reverse index: offsets [m + 1], by_latent [tokens * capacity]: the entries of latent i are
 * by_latent[offsets[i] .. offsets[i + 1]), each t * capacity + j, ascending. tokens * capacity < 2^31. */
ESP_API int32_t esp_sae_by_latent(const int32_t *index, const int32_t *count, int64_t capacity, int32_t *offsets,
                                  int32_t *by_latent, int64_t tokens, int64_t m);
/* Gradients of the SAE's weights, over the entries of each latent:
 *   d_w_dec[i] += sum value * d_out[t];  d_w_enc[i] += sum d_pre * (x[t] - b_pre);  d_b_enc[i] += sum d_pre. */
ESP_API int32_t esp_sae_weight_backward(const void *x, const float *b_pre, const void *d_out, const float *value,
                                        const float *d_pre, const int32_t *offsets, const int32_t *by_latent,
                                        int64_t capacity, float *d_w_enc, float *d_b_enc, float *d_w_dec, int64_t d,
                                        int64_t m, int32_t dtype);
/* loss[t] = |y[t] - x[t]|^2, d_y[t] = grad_scale * 2 (y[t] - x[t]), both 0 where keep[t]. d_y may be NULL. */
ESP_API int32_t esp_sae_mse(const void *x, const void *y, const uint8_t *keep, float *loss, void *d_y, float grad_scale,
                            int64_t tokens, int64_t d, int32_t dtype);
/* Adds the gradient of a reconstruction's error to d_y: d_y[t] = a d_y[t] + grad_scale * 2 (y[t] - x[t]), or a d_y[t]
 * where keep[t]; without accumulate d_y counts as 0. a = 1, or with error and kl [tokens], both given or both NULL,
 * a = balance * sum(error) / sum(kl) (0 where that sum is 0): what stood in d_y, the gradient of a KL, then weighs as
 * much as the error (Karvonen 2025, arXiv 2503.17272: alpha = MSE / KL, treated as a constant). */
ESP_API int32_t esp_sae_mse_backward(const void *x, const void *y, const uint8_t *keep, const float *error,
                                     const float *kl, float balance, void *d_y, int32_t accumulate, float grad_scale,
                                     int64_t tokens, int64_t d, int32_t dtype);

/* -- an SAE that ranks hold in parts: part p has the latents from first[p] up to the next part's (first: int32 [parts],
 *    in device memory, ascending from 0). Lists that are sent in one message are packed: count [tokens], index [tokens,
 *    capacity], value [tokens, capacity], one after another, 4 bytes each -- */

/* Merges the packed [parts] lists of the parts, whose indices count from first[p], into the lists of the whole SAE. Row
 * t gets the parts' entries, one part after another; with k > 0 only the k largest of them (ties: the lower index), as
 * ESP_TOPK lists for the whole SAE (k <= capacity; values are above 0). A row with a NaN has the one entry (0, NaN).
 * pre: [tokens, capacity], receives the values, or NULL: as no threshold is below 0, a value is its z.
 * A part's count may be above `capacity`, as ESP_CPU leaves it: it is then what the row needs, and the first `capacity`
 * entries are there.
 * A row that needs more than `capacity` keeps the first entries, and overflow[0] is raised to what it needs. */
ESP_API int32_t esp_sae_merge(const void *packed, const int32_t *first, int64_t parts, int64_t k, int32_t *index,
                              float *value, float *pre, int32_t *count, int64_t capacity, int32_t *overflow,
                              int64_t tokens);
/* Extracts the entries of the latents [first, first + latents) from lists of the whole SAE: part_count[t] entries, with
 * part_index counted from `first`. */
ESP_API int32_t esp_sae_part(const int32_t *index, const int32_t *count, int64_t capacity, int64_t first,
                             int64_t latents, int32_t *part_index, int32_t *part_count, int64_t tokens);
/* The other way: value[t, j] of lists of the whole SAE from part_value [parts, tokens, capacity], in which each part
 * has one for every entry that esp_sae_part gives it. */
ESP_API int32_t esp_sae_join(const float *part_value, const int32_t *first, int64_t parts, const int32_t *index,
                             const int32_t *count, int64_t capacity, float *value, int64_t tokens);
/* out [rows, cols] from its columns in parts [parts, rows, width], `width` to each; the last ones' may be beyond cols
 * and are not read. Rows with keep[r]: out[r] = kept[r]; kept: needed with keep, else NULL. */
ESP_API int32_t esp_join_columns(const void *parts, int64_t width, const uint8_t *keep, const void *kept, void *out,
                                 int64_t rows, int64_t cols, int32_t dtype);

/* -- training: what is chosen among all tokens, among silent latents, among the first latents; gates -- */

/* silent[i]: tokens since latent i was active last, a whole number that stays at 2^24. After a batch with n rows
 * without keep: 0 for latents with an entry of value != 0, else min(silent[i] + n, 2^24). silent may be NULL. activity:
 * [0] entries with value != 0, [1] n, [2] latents with silent[i] > limit (0 without silent). */
ESP_API int32_t esp_sae_activity(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                                 const uint8_t *keep, float *silent, float limit, double *activity, int64_t tokens,
                                 int64_t m);
/* The pull towards `target` active latents a token, s (L0 / target - 1)^2 with L0 = activity[0] / activity[1] and
 * s = sparsity[2] (the quadratic form of Rajamanoharan et al. 2024, section 6): its derivative with respect to the
 * number of active entries, sparsity[1] = 2 s (L0 / target - 1) / (target activity[1]); 0 without rows. */
ESP_API int32_t esp_sae_l0_pull(const double *activity, float target, float *sparsity);
/* As esp_sae_encode with ESP_TOPK, among the latents with silent[i] > limit alone (AuxK, Gao et al. 2024, A.2). NaN is
 * not listed. scratch: esp_sae_encode_scratch(d, m) floats; capacity >= min(k, m). */
ESP_API int32_t esp_sae_encode_silent(const void *x, const void *w_enc, const float *b_enc, const float *b_pre,
                                      const float *silent, float limit, int64_t k, const uint8_t *keep, int32_t *index,
                                      float *value, int32_t *count, int64_t capacity, float *scratch, int64_t tokens,
                                      int64_t d, int64_t m, int32_t dtype);
/* BatchTopK (Bussmann et al. 2024): of lists of positive values, as ESP_TOPK with k = capacity leaves them, keeps the n
 * k largest of all rows together, n the number of rows without keep (ties: the lower row, then the lower index; NaN is
 * the largest). What is left of a row moves to its front. smallest [1]: the smallest value kept, -1 if that is NaN or
 * nothing is kept.
 * A row whose list is full, with capacity < m, and keeps all of it may have more of the largest than its list has room
 * for: ESP_CPU then returns ESP_CAPACITY and changes nothing, ESP_CUDA raises overflow[0] to capacity + 1 (see
 * esp_sae_encode). tokens * capacity < 2^31. */
ESP_API int32_t esp_sae_batch_topk(int32_t *index, float *value, int32_t *count, int64_t capacity, int64_t k,
                                   const uint8_t *keep, float *smallest, int32_t *overflow, int64_t tokens, int64_t m);
/* Updates an SAE's state by batches that were computed apart, such as by another rank. later: [m + batches]. First, for
 * each latent, what esp_sae_activity made of a `silent` that was -2^24 before these batches: less than 0 where the
 * latent was never active in them (later[i] + 2^24 is then the number of their rows, together fewer than 2^24). Then,
 * for each batch, `smallest` of esp_sae_batch_topk.
 * silent[i] becomes min(silent[i] + later[i] + 2^24, 2^24) where later[i] < 0, else later[i]. threshold [1] follows
 * the smallest values that are not negative, one batch after another: it becomes that value where it was negative,
 * else threshold + rate (smallest - threshold). overflow: int32 [1], or NULL; nothing is changed where it is not 0. */
ESP_API int32_t esp_sae_follow(float *silent, float *threshold, float rate, const float *later, int64_t batches,
                               const int32_t *overflow, int64_t m);
/* prefix[t] = entries of row t with index < limit: a list's part among the first latents (Matryoshka SAEs). */
ESP_API int32_t esp_sae_prefix(const int32_t *index, const int32_t *count, int64_t capacity, int64_t limit,
                               int32_t *prefix, int64_t tokens);
/* Gated SAEs (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders"). ESP_RELU with
 * b_gate for b_enc lists the latents whose gate u = pre is open. With p = u - b_gate, g = exp(r_mag): value = relu(g p
 * + b_mag), 0 entries stay listed. */
ESP_API int32_t esp_sae_gated_forward(const int32_t *index, const float *pre, const int32_t *count, int64_t capacity,
                                      const float *b_gate, const float *r_mag, const float *b_mag, float *value,
                                      int64_t tokens, int64_t m);
/* From d_value (of values) and d_gate (of u) to d_pre (of p), in place in d_value, with h = d_value 1[value > 0]:
 *   d_pre = g h + d_gate + l1;  d_b_mag[i] += sum h;  d_r_mag[i] += sum h g p;  d_b_gate[i] -= sum g h
 * the last because the sum of d_pre, which esp_sae_weight_backward adds to d_b_gate, contains g h, of which b_gate has
 * no part. sparsity: {l1} or NULL. */
ESP_API int32_t esp_sae_gated_backward(float *d_value, const float *d_gate, const float *pre, const float *value,
                                       const int32_t *offsets, const int32_t *by_latent, const float *sparsity,
                                       const float *b_gate, const float *r_mag, float *d_b_gate, float *d_r_mag,
                                       float *d_b_mag, int64_t m);

/* Adds, over rows without keep, to stats (float64): [0] rows, [1] sum |x - y|^2, [2] sum |x|^2, [3] sum cos(x, y),
 * [4] active entries (value != 0), [5] sum |y|^2, [6] sum <x, y>, [7] sum |x|, [8] sum |y|, [9] sum |y| / |x| (1 where
 * |x| < 1e-4), [10] sum of the active values, [11 .. 11 + d) sum of x; and to fired [m] (int64): how often each latent
 * is active. */
ESP_API int32_t esp_sae_stats(const void *x, const void *y, const int32_t *index, const float *value,
                              const int32_t *count, int64_t capacity, const uint8_t *keep, double *stats,
                              int64_t *fired, int64_t tokens, int64_t d, int64_t m, int32_t dtype);
/* Normalisation of an SAE's input, each row by itself: out = u / (spread + eps) with u = x - mean.
 *   ESP_CONSTANT_NORM  mean = 0, spread = |x| / sqrt(d), eps = 0: out has norm sqrt(d); a row of zeros gives NaN
 *   ESP_UNIT_VARIANCE  mean of the row, spread = |u| / sqrt(d - 1), eps = 1e-5; d > 1
 * as SAELens has them ("constant_norm_rescale", "layer_norm"). mean, spread: [tokens]. */
typedef enum { ESP_CONSTANT_NORM = 1, ESP_UNIT_VARIANCE = 2 } esp_sae_normalisation;
ESP_API int32_t esp_sae_normalize(const void *x, int32_t normalisation, void *out, float *mean, float *spread,
                                  int64_t tokens, int64_t d, int32_t dtype);
/* With n = d for ESP_CONSTANT_NORM, d - 1 for ESP_UNIT_VARIANCE, s = spread + eps, g = d_out, and for
 * ESP_UNIT_VARIANCE alone the means over the row:
 *   d_x[t] (+)= (g - mean(g)) / s + u (d_spread - <g, u> / s^2) / (n spread) + d_mean / d;
 * the second term is 0 where spread = 0 under ESP_UNIT_VARIANCE. d_mean, d_spread: [tokens], what else depends on the
 * statistics; both NULL for nothing. Rows with keep[t]: d_x[t] (+)= d_kept[t]; d_kept: needed with keep, else NULL. */
ESP_API int32_t esp_sae_normalize_backward(const void *x, const float *mean, const float *spread, int32_t normalisation,
                                           const void *d_out, const float *d_mean, const float *d_spread,
                                           const uint8_t *keep, const void *d_kept, void *d_x, int32_t accumulate,
                                           int64_t tokens, int64_t d, int32_t dtype);
/* An SAE's output from what was decoded: out[t] = spread[t] * y[t] + mean[t] + skip[t]; rows with keep[t]: x[t].
 * mean, spread: both given, or both NULL for 0 and 1; skip: [tokens, d] or NULL; x: needed with keep, else NULL. */
ESP_API int32_t esp_sae_restore(const void *y, const float *mean, const float *spread, const void *skip,
                                const uint8_t *keep, const void *x, void *out, int64_t tokens, int64_t d,
                                int32_t dtype);
/* d_y = spread * d_out, d_skip = d_out, d_mean[t] = sum d_out[t], d_spread[t] = <d_out[t], y[t]>, all 0 where keep[t].
 * spread, y, d_mean and d_spread: all given or all NULL (spread is 1 then). d_skip may be NULL. */
ESP_API int32_t esp_sae_restore_backward(const void *d_out, const void *y, const float *spread, const uint8_t *keep,
                                         void *d_y, void *d_skip, float *d_mean, float *d_spread, int64_t tokens,
                                         int64_t d, int32_t dtype);
/* Each row of w [rows, d] divided by its norm; rows of norm 0 stay. */
ESP_API int32_t esp_normalize_rows(float *w, int64_t rows, int64_t d);
/* grad[r] -= w[r] <grad[r], w[r]> / |w[r]|^2: removes the part of the gradient that changes the norms of w's rows. */
ESP_API int32_t esp_remove_parallel(const float *w, float *grad, int64_t rows, int64_t d);

/* ---- optimizer ---------------------------------------------------------------------------------------------- */

/* What changes from step to step lives in device memory, so that a recorded step can be replayed. The host writes the
 * first half, kernels the second. */
typedef struct {
  double lr;
  int64_t step;     /* counted from 1 */
  uint64_t seed;    /* of this step's dropout */
  double loss;      /* summed up over the step's batches */
  double grad_norm; /* written by esp_global_norm */
  int32_t overflow; /* entries that the longest list of latents needed, if it had too little room: see esp_sae_encode */
  int32_t reserved;
} esp_control;

/* control->grad_norm = sqrt(sum of grad^2), accumulated in float64. */
ESP_API int32_t esp_global_norm(const float *grad, int64_t n, esp_control *control);
/* AdamW with decoupled decay (Loshchilov & Hutter 2019, algorithm 2, as torch.optim.AdamW computes it):
 * g = grad * min(1, clip / (grad_norm + 1e-6)) (clip <= 0: no clipping); p *= 1 - lr * weight_decay;
 * m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
 * p -= lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps).
 * Changes nothing where loss or grad_norm is not finite or overflow is not 0: such a step must not count. */
ESP_API int32_t esp_adamw(float *param, const float *grad, float *m, float *v, int64_t n, float beta1, float beta2,
                          float eps, float weight_decay, float clip, const esp_control *control);

#ifdef __cplusplus
}
#endif

#endif
