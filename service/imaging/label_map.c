/* Label maps straight from logits: the class of every pixel of a bilinear resize, without the resized logits.
 *
 * A resized pixel is a convex combination of the four cells around it, its quad. A class that wins in all four cells
 * wins in the whole quad. In the other quads a class that is below one winner in all four cells cannot win, so only the
 * few that are left are interpolated.
 *
 * Source coordinates are the integers (2 * pixel + 1) * cells - pixels over 2 * pixels, with both counts divided by
 * their common divisor. Such weights are exact, and up to some 4000 pixels a side so are, in double, the sums of float32
 * values of one magnitude: exact ties are seen as ties. The build must not contract or reorder floating-point operations.
 *
 * Logits of half precision become float32 as they are read, a run of cells at a time: each exactly.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { CHUNK = 1024, TILE = 64, LANES = 16, PIXELS = 4 };

static const float LARGEST_HALF = 65504;

/* Pixels start[c] .. start[c + 1] - 1 lie between cell c, of weight near, and the next cell, of weight far. */
typedef struct {
    int64_t from, to; /* cells, pixels */
    int64_t *start;
    double *near, *far;
} axis;

typedef struct {
    const void *logits; /* (classes, rows.from, columns.from) of value_bytes each */
    int64_t value_bytes, classes, padded;
    axis rows, columns;
    uint8_t *winners;  /* (rows.from, columns.from) class of each cell */
    float *vectors[2]; /* (TILE + 1, padded) logits of a run of cells and of those below them */
    uint8_t *labels;   /* (rows.to, columns.to) */
} job;

typedef struct {
    const float *corner[4]; /* logits of the cells: upper left, upper right, lower left, lower right */
    uint8_t winner[4];
} quad;

static int64_t common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void axis_fill(axis *self) {
    int64_t divisor = common_divisor(self->from, self->to), cell = 0;
    int64_t cells = self->from / divisor, pixels = self->to / divisor;
    self->start[0] = 0;
    for (int64_t pixel = 0; pixel < self->to; pixel++) {
        int64_t position = (2 * pixel + 1) * cells - pixels;
        if (position < 0) position = 0;
        while (cell < position / (2 * pixels)) self->start[++cell] = pixel;
        self->far[pixel] = (double)(position % (2 * pixels));
        self->near[pixel] = (double)(2 * pixels) - self->far[pixel];
    }
    while (cell < self->from) self->start[++cell] = self->to;
}

static int axis_init(axis *self, int64_t from, int64_t to) {
    self->from = from;
    self->to = to;
    self->start = malloc((size_t)(from + 1) * sizeof *self->start);
    self->near = calloc((size_t)(to + PIXELS), sizeof *self->near); /* label_quad reads PIXELS at a time */
    self->far = calloc((size_t)(to + PIXELS), sizeof *self->far);
    if (!self->start || !self->near || !self->far) return NO_MEMORY;
    axis_fill(self);
    return OK;
}

static void axis_free(axis *self) {
    free(self->start);
    free(self->near);
    free(self->far);
}

INLINE int64_t next_cell(const axis *self, int64_t cell) { return cell + 1 < self->from ? cell + 1 : cell; }

/* A number of half precision; infinity and NaN become larger than LARGEST_HALF. */
INLINE float from_half(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x8000) << 16 | (uint32_t)(half & 0x7fff) << 13;
    float scaled; /* its exponent is 112 too small */
    memcpy(&scaled, &bits, sizeof scaled);
    return scaled * 0x1p112f;
}

/* count logits from an offset on: as they lie there, or as float32 in room. */
INLINE const float *read_logits(const job *self, int64_t offset, int64_t count, float *restrict room) {
    if (self->value_bytes == sizeof(float)) return (const float *)self->logits + offset;
    const uint16_t *restrict halves = (const uint16_t *)self->logits + offset;
    for (int64_t i = 0; i < count; i++) room[i] = from_half(halves[i]);
    return room;
}

/* Class of each of count <= CHUNK cells from a cell on; the lowest class wins ties. */
INLINE int chunk_winners(const job *self, int64_t start, int64_t count, uint8_t *restrict winners) {
    const float limit = self->value_bytes == sizeof(float) ? FLT_MAX : LARGEST_HALF;
    float best[CHUNK], room[CHUNK];
    int32_t winner[CHUNK], not_finite = 0;
    for (int64_t i = 0; i < count; i++) {
        best[i] = -INFINITY;
        winner[i] = 0;
    }
    for (int64_t k = 0; k < self->classes; k++) {
        const float *restrict plane = read_logits(self, k * self->rows.from * self->columns.from + start, count, room);
        for (int64_t i = 0; i < count; i++) {
            int32_t above = plane[i] > best[i];
            not_finite |= !(fabsf(plane[i]) <= limit);
            best[i] = above ? plane[i] : best[i];
            winner[i] = above ? (int32_t)k : winner[i];
        }
    }
    for (int64_t i = 0; i < count; i++) winners[i] = (uint8_t)winner[i];
    return not_finite ? NOT_FINITE : OK;
}

INLINE int find_winners(const job *self) {
    int64_t stride = self->rows.from * self->columns.from;
    for (int64_t start = 0; start < stride; start += CHUNK) {
        int64_t count = stride - start < CHUNK ? stride - start : CHUNK;
        if (chunk_winners(self, start, count, self->winners + start)) return NOT_FINITE;
    }
    return OK;
}

/* Copy the logits of count cells from (y, x) on to class vectors. */
INLINE void gather_vectors(const job *self, int64_t y, int64_t x, int64_t count, float *restrict vectors) {
    int64_t stride = self->rows.from * self->columns.from, start = y * self->columns.from + x;
    float room[TILE + 1];
    for (int64_t k = 0; k < self->classes; k++) {
        const float *restrict logits = read_logits(self, k * stride + start, count, room);
        for (int64_t i = 0; i < count; i++) vectors[i * self->padded + k] = logits[i];
    }
}

/* Clear keep for those of LANES classes from k on that are below class winner in all four corners. */
INLINE void drop_dominated(const quad *at, int winner, int64_t k, int32_t keep[LANES]) {
    const float *a = at->corner[0], *b = at->corner[1], *c = at->corner[2], *d = at->corner[3];
    float best_a = a[winner], best_b = b[winner], best_c = c[winner], best_d = d[winner];
    for (int i = 0; i < LANES; i++)
        keep[i] &= !((a[k + i] < best_a) & (b[k + i] < best_b) & (c[k + i] < best_c) & (d[k + i] < best_d));
}

/* List the classes that can win in a quad, lowest first, and give their number. */
INLINE int list_candidates(const quad *at, int64_t classes, int32_t candidates[MAX_CLASSES + 1]) {
    int count = 0;
    for (int64_t k = 0; k < classes; k += LANES) {
        int32_t keep[LANES], any = 0;
        for (int i = 0; i < LANES; i++) keep[i] = k + i < classes;
        for (int m = 0; m < 4; m++)
            if (m == 0 || (at->winner[m] != at->winner[m - 1] && at->winner[m] != at->winner[0]))
                drop_dominated(at, at->winner[m], k, keep);
        for (int i = 0; i < LANES; i++) any |= keep[i];
        for (int i = 0; any && i < LANES; i++) {
            candidates[count] = (int32_t)k + i;
            count += keep[i];
        }
    }
    return count;
}

/* Interpolate count candidates at PIXELS pixels; left and right hold them at the pixel row, in both cell columns. */
INLINE void choose(const double *near, const double *far, const double *left, const double *right, int count,
                   int64_t chosen[PIXELS]) {
    double best[PIXELS];
    for (int p = 0; p < PIXELS; p++) {
        best[p] = near[p] * left[0] + far[p] * right[0];
        chosen[p] = 0;
    }
    for (int c = 1; c < count; c++) {
        for (int p = 0; p < PIXELS; p++) {
            double value = near[p] * left[c] + far[p] * right[c];
            int64_t above = value > best[p];
            best[p] = above ? value : best[p];
            chosen[p] = above ? c : chosen[p];
        }
    }
}

/* Label the pixels of quad (y, x). */
INLINE void label_quad(const job *self, int64_t y, int64_t x, const quad *at) {
    const axis *rows = &self->rows, *columns = &self->columns;
    int32_t candidates[MAX_CLASSES + 1];
    double left[MAX_CLASSES], right[MAX_CLASSES];
    int count = list_candidates(at, self->classes, candidates);
    for (int64_t row = rows->start[y]; row < rows->start[y + 1]; row++) {
        for (int c = 0; c < count; c++) {
            int32_t k = candidates[c];
            left[c] = rows->near[row] * at->corner[0][k] + rows->far[row] * at->corner[2][k];
            right[c] = rows->near[row] * at->corner[1][k] + rows->far[row] * at->corner[3][k];
        }
        for (int64_t column = columns->start[x], end = columns->start[x + 1]; column < end; column += PIXELS) {
            int64_t chosen[PIXELS];
            choose(columns->near + column, columns->far + column, left, right, count, chosen);
            for (int64_t p = 0; p < PIXELS && column + p < end; p++)
                self->labels[row * columns->to + column + p] = (uint8_t)candidates[chosen[p]];
        }
    }
}

/* Label the quads x .. end - 1 of row y, TILE at most, whose corners differ. */
INLINE void label_run(const job *self, int64_t y, int64_t x, int64_t end) {
    const axis *columns = &self->columns;
    int64_t below = next_cell(&self->rows, y), count = next_cell(columns, end - 1) - x + 1;
    const uint8_t *upper = self->winners + y * columns->from, *lower = self->winners + below * columns->from;
    gather_vectors(self, y, x, count, self->vectors[0]);
    gather_vectors(self, below, x, count, self->vectors[1]);
    for (int64_t i = x; i < end; i++) {
        int64_t next = next_cell(columns, i), near = (i - x) * self->padded, far = (next - x) * self->padded;
        const float *const *vectors = (const float *const *)self->vectors;
        quad at = {{vectors[0] + near, vectors[0] + far, vectors[1] + near, vectors[1] + far},
                   {upper[i], upper[next], lower[i], lower[next]}};
        label_quad(self, y, i, &at);
    }
}

/* Fill a pixel row by runs of equal cells; label_run corrects the mixed quads. */
INLINE void fill_row(const axis *columns, const uint8_t *winners, uint8_t *labels) {
    for (int64_t x = 0, end; x < columns->from; x = end) {
        for (end = x + 1; end < columns->from && winners[end] == winners[x];) end++;
        memset(labels + columns->start[x], winners[x], (size_t)(columns->start[end] - columns->start[x]));
    }
}

/* Whether quad x has pixels and corners of more than one class. */
INLINE int is_mixed(const axis *columns, const uint8_t *upper, const uint8_t *lower, int64_t x) {
    int64_t next = next_cell(columns, x);
    int differ = (upper[x] ^ upper[next]) | (upper[x] ^ lower[x]) | (upper[x] ^ lower[next]);
    return differ && columns->start[x] < columns->start[x + 1];
}

/* Label the pixel rows between cell row y and the next one. */
INLINE void label_band(const job *self, int64_t y) {
    const axis *columns = &self->columns;
    const uint8_t *upper = self->winners + y * columns->from;
    const uint8_t *lower = self->winners + next_cell(&self->rows, y) * columns->from;
    int64_t start = self->rows.start[y], count = self->rows.start[y + 1] - start;
    uint8_t *labels = self->labels + start * columns->to;
    if (count == 0) return;
    fill_row(columns, upper, labels);
    for (int64_t row = 1; row < count; row++)
        memcpy(labels + row * columns->to, labels, (size_t)columns->to);
    for (int64_t x = 0, end; x < columns->from; x = end + (end == x)) {
        for (end = x; end < columns->from && end - x < TILE && is_mixed(columns, upper, lower, end);) end++;
        if (end > x) label_run(self, y, x, end);
    }
}

CLONES void widen(const uint16_t *halves, int64_t count, float *values) {
    for (int64_t i = 0; i < count; i++) {
        float value = from_half(halves[i]);
        values[i] = fabsf(value) <= LARGEST_HALF ? value : INFINITY;
    }
}

CLONES static int label_all(const job *self) {
    if (find_winners(self)) return NOT_FINITE;
    for (int64_t y = 0; y < self->rows.from; y++) label_band(self, y);
    return OK;
}

int label_map(const void *logits, int64_t value_bytes, int64_t classes, int64_t height, int64_t width,
              int64_t new_height, int64_t new_width, uint8_t *labels) {
    if (classes < 1 || classes > MAX_CLASSES || height < 1 || width < 1 || new_height < 1 || new_width < 1)
        return BAD_SIZE;
    if (value_bytes != sizeof(float) && value_bytes != sizeof(uint16_t)) return BAD_SIZE;
    job self = {.logits = logits, .value_bytes = value_bytes, .classes = classes, .labels = labels};
    self.padded = (classes + LANES - 1) / LANES * LANES;
    self.winners = malloc((size_t)(height * width));
    for (int i = 0; i < 2; i++) self.vectors[i] = calloc((size_t)((TILE + 1) * self.padded), sizeof(float));
    int status = axis_init(&self.rows, height, new_height) | axis_init(&self.columns, width, new_width);
    if (!self.winners || !self.vectors[0] || !self.vectors[1]) status = NO_MEMORY;
    if (status == OK) status = label_all(&self);
    axis_free(&self.columns);
    axis_free(&self.rows);
    for (int i = 0; i < 2; i++) free(self.vectors[i]);
    free(self.winners);
    return status;
}
