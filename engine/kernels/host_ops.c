/* Operations of the model on the CPU in float32, beside the matrix products.

   The references are in the Python modules of the same names: rms_norm, qk_rope_store, silu, attention.
   All arrays are contiguous but for the strides that are given. Head dimensions are multiples of LANES and
   at most MOST_DIM. Nothing is allocated but the list of an attention call's blocks. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define MOST_DIM 256
/* Rows of queries that share a block of keys, and keys of such a block. */
#define ROWS 16
#define KEYS 32
/* From so many rows on keys are turned once, so that a vector runs over keys and needs no sum across. */
#define LEAST_TURNED 4

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *from) {
  vec out;
  memcpy(&out, from, sizeof out);
  return out;
}

static inline void store(float *to, vec value) { memcpy(to, &value, sizeof value); }

static inline vec all(float value) { return (vec){value, value, value, value, value, value, value, value}; }

static inline vec larger(vec a, vec b) {
  ints mask = a > b;
  return (vec)(((ints)a & mask) | ((ints)b & ~mask));
}

static inline vec smaller(vec a, vec b) {
  ints mask = a < b;
  return (vec)(((ints)a & mask) | ((ints)b & ~mask));
}

static inline float sum(vec v) {
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

/* e^x for x <= 88: 2^n e^r with |r| <= ln 2 / 2 and a polynomial of degree 7 (Cephes, expf). Below -87 it is
   e^-87, which is nothing beside the largest weight of a softmax, 1. */
static inline vec expv(vec x) {
  const vec magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number. */
  x = larger(x, all(-87.0f));
  vec shifted = x * all(1.44269504088896341f) + magic;
  vec n = shifted - magic;
  vec r = x - n * all(0.693359375f) - n * all(-2.12194440e-4f);
  vec p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  vec y = p * r * r + r + all(1.0f);
  ints power = ((ints)shifted - (ints)magic + 127) << 23;
  return y * (vec)power;
}

/* out = weight * s / sqrt(mean(s^2) + eps), s = x + residual, which is stored to residual; s = x without. */
void nb_rms_norm(const float *x, float *residual, const float *weight, float *out, int64_t rows, int64_t n,
                 float eps) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *from = x + row * n;
    float *to = out + row * n;
    if (residual) {
      float *kept = residual + row * n;
      for (int64_t i = 0; i < n; i++) kept[i] += from[i];
      from = kept;
    }
    vec squares = all(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
      vec v = load(from + i);
      squares += v * v;
    }
    float total = sum(squares);
    for (; i < n; i++) total += from[i] * from[i];
    float scale = 1.0f / sqrtf(total / (float)n + eps);
    for (i = 0; i < n; i++) to[i] = weight[i] * (from[i] * scale);
  }
}

/* out = silu(gate) * up, rows of 2n: gate, up. */
void nb_silu_and_mul(const float *gate_up, float *out, int64_t rows, int64_t n) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *gate = gate_up + row * 2 * n, *up = gate + n;
    float *to = out + row * n;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
      vec g = load(gate + i);
      store(to + i, g / (all(1.0f) + expv(smaller(-g, all(88.0f)))) * load(up + i));
    }
    for (; i < n; i++) to[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
  }
}

/* One head: its norm if it has weights, then its halves turned: a, b -> a c - b s, b c + a s. */
static void turn_head(const float *from, const float *norm, float eps, const float *cosines,
                      const float *sines, float *to, int64_t dim) {
  int64_t half = dim / 2;
  float normed[MOST_DIM];
  if (norm) {
    float total = 0.0f;
    for (int64_t i = 0; i < dim; i++) total += from[i] * from[i];
    float scale = 1.0f / sqrtf(total / (float)dim + eps);
    for (int64_t i = 0; i < dim; i++) normed[i] = norm[i] * (from[i] * scale);
    from = normed;
  }
  for (int64_t i = 0; i < half; i++) {
    float a = from[i], b = from[half + i];
    to[i] = a * cosines[i] - b * sines[i];
    to[half + i] = b * cosines[half + i] + a * sines[half + i];
  }
}

/* q = R n(q); cache[page, 0, :, offset] = R n(k); cache[page, 1, :, offset] = v. */
void nb_qk_rope_store(const float *qkv, const float *cosines, const float *sines, float *cache,
                      const int64_t *pages, const int64_t *offsets, const float *q_norm,
                      const float *k_norm, float eps, float *out, int64_t tokens, int64_t heads,
                      int64_t kv_heads, int64_t dim, int64_t page_size) {
  int64_t width = (heads + 2 * kv_heads) * dim;
#pragma omp parallel for schedule(static)
  for (int64_t token = 0; token < tokens; token++) {
    const float *from = qkv + token * width, *c = cosines + token * dim, *s = sines + token * dim;
    for (int64_t head = 0; head < heads; head++)
      turn_head(from + head * dim, q_norm, eps, c, s, out + (token * heads + head) * dim, dim);
    from += heads * dim;
    for (int64_t head = 0; head < kv_heads; head++) {
      float *key = cache + ((pages[token] * 2 * kv_heads + head) * page_size + offsets[token]) * dim;
      turn_head(from + head * dim, k_norm, eps, c, s, key, dim);
      memcpy(key + kv_heads * page_size * dim, from + (kv_heads + head) * dim, sizeof(float) * dim);
    }
  }
}

/* What every block of an attention call knows. */
typedef struct {
  const float *q, *cache;
  float *out;
  const int32_t *first, *length, *context, *slot, *tables;
  int64_t table_width, heads, kv_heads, dim, page_size, window;
  float scale;
} Call;

/* scores[r][j] = q[r] . k[j] for rows of a few, straight from the pages. */
static void score_plain(float q[ROWS][MOST_DIM], const float *keys[KEYS], int rows, int count, int64_t dim,
                        float scores[ROWS][KEYS]) {
  for (int j = 0; j < count; j++)
    for (int r = 0; r < rows; r++) {
      vec total = all(0.0f);
      for (int64_t d = 0; d < dim; d += LANES) total += load(q[r] + d) * load(keys[j] + d);
      scores[r][j] = sum(total);
    }
}

/* The same with the keys turned: [dim][KEYS], two rows at a time. */
static void score_turned(float q[ROWS][MOST_DIM], float turned[MOST_DIM][KEYS], int rows, int64_t dim,
                         float scores[ROWS][KEYS]) {
  for (int r = 0; r < rows; r += 2) {
    const float *one = q[r], *other = q[r + 1 < rows ? r + 1 : r];
    vec a0 = all(0.0f), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    for (int64_t d = 0; d < dim; d++) {
      const float *key = turned[d];
      vec k0 = load(key), k1 = load(key + LANES), k2 = load(key + 2 * LANES), k3 = load(key + 3 * LANES);
      vec a = all(one[d]), b = all(other[d]);
      a0 += a * k0, a1 += a * k1, a2 += a * k2, a3 += a * k3;
      b0 += b * k0, b1 += b * k1, b2 += b * k2, b3 += b * k3;
    }
    store(scores[r], a0), store(scores[r] + LANES, a1);
    store(scores[r] + 2 * LANES, a2), store(scores[r] + 3 * LANES, a3);
    if (r + 1 < rows) {
      store(scores[r + 1], b0), store(scores[r + 1] + LANES, b1);
      store(scores[r + 1] + 2 * LANES, b2), store(scores[r + 1] + 3 * LANES, b3);
    }
  }
}

/* sums[r] += sum over j of weights[r][j] v[j], four vectors of a row at a time. */
static void add_values(float sums[ROWS][MOST_DIM], float weights[ROWS][KEYS], const float *values[KEYS],
                       int rows, int count, int64_t dim) {
  for (int r = 0; r < rows; r++) {
    int64_t d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES) {
      float *to = sums[r] + d;
      vec s0 = load(to), s1 = load(to + LANES), s2 = load(to + 2 * LANES), s3 = load(to + 3 * LANES);
      for (int j = 0; j < count; j++) {
        const float *v = values[j] + d;
        vec w = all(weights[r][j]);
        s0 += w * load(v), s1 += w * load(v + LANES);
        s2 += w * load(v + 2 * LANES), s3 += w * load(v + 3 * LANES);
      }
      store(to, s0), store(to + LANES, s1), store(to + 2 * LANES, s2), store(to + 3 * LANES, s3);
    }
    for (; d < dim; d += LANES) {
      vec s = load(sums[r] + d);
      for (int j = 0; j < count; j++) s += all(weights[r][j]) * load(values[j] + d);
      store(sums[r] + d, s);
    }
  }
}

/* Attention of up to ROWS queries, of a sequence and the heads that share a KV head, over all their keys;
   the softmax goes on from block to block (Milakov and Gimelshein, 2018). */
static void attend(const Call *call, int64_t sequence, int64_t kv_head, int64_t start) {
  int64_t dim = call->dim, group = call->heads / call->kv_heads, page_size = call->page_size;
  int64_t left = call->length[sequence] * group - start;
  int rows = left < ROWS ? (int)left : ROWS;
  int64_t before = call->context[sequence] - call->length[sequence];
  const int32_t *table = call->tables + call->slot[sequence] * call->table_width;
  float q[ROWS][MOST_DIM], sums[ROWS][MOST_DIM], turned[MOST_DIM][KEYS], scores[ROWS][KEYS];
  float most[ROWS], total[ROWS];
  int64_t place[ROWS] = {0};
  for (int r = 0; r < rows; r++) {
    int64_t token = (start + r) / group, head = kv_head * group + (start + r) % group;
    const float *from = call->q + ((call->first[sequence] + token) * call->heads + head) * dim;
    for (int64_t d = 0; d < dim; d++) q[r][d] = from[d] * call->scale;
    memset(sums[r], 0, sizeof(float) * dim);
    most[r] = -INFINITY, total[r] = 0.0f, place[r] = before + token;
  }
  /* Rows stand in the order of their places. */
  int64_t end = place[rows - 1] + 1, begin = place[0] - call->window + 1;
  for (int64_t key = begin > 0 ? begin : 0; key < end; key += KEYS) {
    int count = end - key < KEYS ? (int)(end - key) : KEYS;
    const float *keys[KEYS], *values[KEYS];
    for (int j = 0; j < count; j++) {
      int64_t page = table[(key + j) / page_size], offset = (key + j) % page_size;
      keys[j] = call->cache + ((page * 2 * call->kv_heads + kv_head) * page_size + offset) * dim;
      values[j] = keys[j] + call->kv_heads * page_size * dim;
    }
    if (rows < LEAST_TURNED) {
      score_plain(q, keys, rows, count, dim, scores);
    } else {
      for (int j = 0; j < KEYS; j++)
        for (int64_t d = 0; d < dim; d++) turned[d][j] = j < count ? keys[j][d] : 0.0f;
      score_turned(q, turned, rows, dim, scores);
    }
    for (int r = 0; r < rows; r++) {
      float *score = scores[r];
      int64_t low = place[r] - call->window + 1 - key, high = place[r] + 1 - key;
      for (int j = 0; j < KEYS; j++)
        if (j < low || j >= high || j >= count) score[j] = -INFINITY;
      vec best = load(score);
      for (int j = LANES; j < KEYS; j += LANES) best = larger(best, load(score + j));
      float block = best[0];
      for (int j = 1; j < LANES; j++) block = best[j] > block ? best[j] : block;
      if (block == -INFINITY) {
        memset(score, 0, sizeof(float) * KEYS);
        continue;
      }
      if (block > most[r]) {
        float factor = expf(most[r] - block);
        for (int64_t d = 0; d < dim; d++) sums[r][d] *= factor;
        total[r] *= factor, most[r] = block;
      }
      vec weight = all(0.0f), shift = all(most[r]);
      for (int j = 0; j < KEYS; j += LANES) {
        vec w = expv(load(score + j) - shift);
        weight += w;
        store(score + j, w);
      }
      total[r] += sum(weight);
    }
    add_values(sums, scores, values, rows, count, dim);
  }
  for (int r = 0; r < rows; r++) {
    int64_t token = (start + r) / group, head = kv_head * group + (start + r) % group;
    float *to = call->out + ((call->first[sequence] + token) * call->heads + head) * dim;
    for (int64_t d = 0; d < dim; d++) to[d] = sums[r][d] / total[r];
  }
}

/* Causal attention of the new tokens of sequences over their pages; 0, or -1 if memory is short.

   Sequence i has the rows first[i] .. first[i] + length[i] - 1 of q and out, the last of its context[i]
   tokens; its pages are tables[slot[i]]. A query looks at its own place and the window - 1 before it. */
int nb_attention(const float *q, const float *cache, float *out, const int32_t *first, const int32_t *length,
                 const int32_t *context, const int32_t *slot, const int32_t *tables, int64_t table_width,
                 int64_t sequences, int64_t heads, int64_t kv_heads, int64_t dim, int64_t page_size,
                 int64_t window, float scale) {
  Call call = {q,           cache, out,      first, length,    context, slot, tables,
               table_width, heads, kv_heads, dim,   page_size, window,  scale};
  int64_t group = heads / kv_heads, blocks = 0;
  int64_t *until = malloc(sizeof(int64_t) * (sequences + 1));
  if (!until) return -1;
  for (int64_t i = 0; i < sequences; i++) {
    blocks += (length[i] * group + ROWS - 1) / ROWS * kv_heads;
    until[i] = blocks;
  }
#pragma omp parallel for schedule(monotonic : dynamic, 4)
  for (int64_t block = 0; block < blocks; block++) {
    int64_t low = 0, high = sequences - 1;
    while (low < high) {
      int64_t middle = (low + high) / 2;
      if (until[middle] > block)
        high = middle;
      else
        low = middle + 1;
    }
    int64_t place = block - (low ? until[low - 1] : 0);
    attend(&call, low, place % kv_heads, place / kv_heads * ROWS);
  }
  free(until);
  return 0;
}
