/* Bilinear resize of RGB pixels: what Pillow computes, bit for bit, in a small part of its time.
 *
 * The filter is a triangle that reaches one source pixel to each side, or, where the image shrinks, one pixel of the
 * result. Weights are rounded to 22 bits, and samples to 8 after each axis, the horizontal one first. A row of the source
 * is resized once and kept in a ring until no row of the result needs it, so the scratch is a few rows, and both passes
 * work on packed pixels. The build must not contract floating-point operations: they decide the weights.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { CHUNK = 256, CHANNELS = 3, PADDED = 4, PRECISION = 22, HALF = 1 << (PRECISION - 1) };

typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bytes16){__VA_ARGS__})
#endif

/* Pixel i of the result is the sum of count[i] source pixels from start[i] on, with weights from taps * i on. */
typedef struct {
    int64_t from, to, taps;
    int64_t *start, *count;
    int32_t *weights;
} axis;

typedef struct {
    const uint8_t *pixels; /* (rows.from, columns.from, pixel_bytes), of which CHANNELS count */
    int64_t pixel_bytes;
    uint8_t *resized;      /* (rows.to, columns.to, CHANNELS) */
    axis rows, columns;
    uint8_t *ring;        /* rows.taps source rows, resized, each with a byte to spare */
    uint8_t *last;        /* the last row of the source, with a byte to spare */
    const uint8_t **used; /* the rows of the ring that a row of the result is made of */
} job;

/* Fill start, count and weights; exact is scratch for taps weights. */
static void axis_fill(axis *self, double support, double *exact) {
    double scale = (double)self->from / (double)self->to;
    for (int64_t i = 0; i < self->to; i++) {
        double centre = ((double)i + 0.5) * scale, sum = 0.0;
        int64_t start = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        start = start < 0 ? 0 : start;
        end = end > self->from ? self->from : end;
        for (int64_t tap = 0; tap < end - start; tap++) {
            double distance = fabs(((double)(tap + start) - centre + 0.5) * (1.0 / support));
            exact[tap] = distance < 1.0 ? 1.0 - distance : 0.0;
            sum += exact[tap];
        }
        for (int64_t tap = 0; tap < end - start; tap++)
            self->weights[i * self->taps + tap] = (int32_t)(0.5 + exact[tap] / sum * (1 << PRECISION));
        self->start[i] = start;
        self->count[i] = end - start;
    }
}

static int axis_init(axis *self, int64_t from, int64_t to) {
    double support = from > to ? (double)from / (double)to : 1.0;
    self->from = from;
    self->to = to;
    self->taps = 2 * (from > to ? (from + to - 1) / to : 1) + 1;
    self->start = malloc((size_t)to * sizeof *self->start);
    self->count = malloc((size_t)to * sizeof *self->count);
    self->weights = malloc((size_t)(to * self->taps) * sizeof *self->weights);
    double *exact = malloc((size_t)self->taps * sizeof *exact);
    int status = self->start && self->count && self->weights && exact ? OK : NO_MEMORY;
    if (status == OK) axis_fill(self, support, exact);
    free(exact);
    return status;
}

static void axis_free(axis *self) {
    free(self->start);
    free(self->count);
    free(self->weights);
}

INLINE ints4 clip(ints4 value) {
    ints4 above = value > 255;
    return (above & 255) | (~above & value);
}

/* Give all pixels of the result the same number of source pixels, the most that one has, by weights of 0. */
static void axis_even(axis *self) {
    int64_t most = 0;
    for (int64_t i = 0; i < self->to; i++) most = self->count[i] > most ? self->count[i] : most;
    for (int64_t i = 0; i < self->to; i++) {
        int32_t *weights = self->weights + i * self->taps;
        int64_t last = self->from - most, shift = self->start[i] > last ? self->start[i] - last : 0;
        memmove(weights + shift, weights, (size_t)self->count[i] * sizeof *weights);
        memset(weights, 0, (size_t)shift * sizeof *weights);
        memset(weights + shift + self->count[i], 0, (size_t)(most - shift - self->count[i]) * sizeof *weights);
        self->start[i] -= shift;
        self->count[i] = most;
    }
}

/* The four bytes at a place as integers. */
INLINE ints4 widened(const uint8_t *bytes) {
    uint32_t packed;
    memcpy(&packed, bytes, sizeof packed);
    bytes16 low = (bytes16)(ints4){(int32_t)packed, 0, 0, 0}, zero = {0};
    return (ints4)SHUFFLE(low, zero, 0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16);
}

/* Four integers from 0 to 255 as bytes. */
INLINE uint32_t narrowed(ints4 values) {
    bytes16 bytes = (bytes16)values;
    return (uint32_t)((ints4)SHUFFLE(bytes, bytes, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12))[0];
}

/* A row of the source to the columns of the result, of count source pixels each; both have a byte to spare behind. */
INLINE void resize_pixels(const uint8_t *pixels, int64_t pixel_bytes, const axis *columns, int64_t count,
                          uint8_t *resized) {
    for (int64_t column = 0; column < columns->to; column++) {
        const uint8_t *pixel = pixels + pixel_bytes * columns->start[column];
        const int32_t *weights = columns->weights + columns->taps * column;
        ints4 sum = {HALF, HALF, HALF, HALF};
        for (int64_t tap = 0; tap < count; tap++) {
            int32_t weight = weights[tap];
            sum += widened(pixel + pixel_bytes * tap) * (ints4){weight, weight, weight, weight};
        }
        uint32_t result = narrowed(clip(sum >> PRECISION));
        memcpy(resized + CHANNELS * column, &result, sizeof result);
    }
}

/* See resize_pixels; the compiler knows the usual counts. */
INLINE void resize_row(const uint8_t *pixels, int64_t pixel_bytes, const axis *columns, uint8_t *resized) {
    int64_t count = columns->count[0];
    if (count == 2) resize_pixels(pixels, pixel_bytes, columns, 2, resized);
    else if (count == 3) resize_pixels(pixels, pixel_bytes, columns, 3, resized);
    else if (count == 4) resize_pixels(pixels, pixel_bytes, columns, 4, resized);
    else resize_pixels(pixels, pixel_bytes, columns, count, resized);
}

/* The weighted sum of count rows of row_bytes each, whatever the count. */
INLINE void add_many(const uint8_t *const *used, const int32_t *weights, int64_t count, int64_t row_bytes,
                     uint8_t *resized) {
    for (int64_t start = 0; start < row_bytes; start += CHUNK) {
        int64_t bytes = row_bytes - start < CHUNK ? row_bytes - start : CHUNK;
        int32_t sums[CHUNK];
        for (int64_t i = 0; i < bytes; i++) sums[i] = HALF;
        for (int64_t tap = 0; tap < count; tap++) {
            const uint8_t *samples = used[tap] + start;
            int32_t weight = weights[tap];
            for (int64_t i = 0; i < bytes; i++) sums[i] += samples[i] * weight;
        }
        for (int64_t i = 0; i < bytes; i++) {
            int32_t value = sums[i] >> PRECISION;
            resized[start + i] = (uint8_t)(value > 255 ? 255 : value);
        }
    }
}

/* The weighted sum of two to four rows: the compiler knows the count, and keeps the sums in registers. */
INLINE void add_few(const uint8_t *const *used, const int32_t *weights, int64_t count, int64_t row_bytes,
                    uint8_t *restrict resized) {
    for (int64_t i = 0; i < row_bytes; i++) {
        int32_t sum = HALF;
        for (int64_t tap = 0; tap < count; tap++) sum += used[tap][i] * weights[tap];
        sum >>= PRECISION;
        resized[i] = (uint8_t)(sum > 255 ? 255 : sum);
    }
}

/* The weighted sum of count rows of row_bytes each. */
INLINE void add_rows(const uint8_t *const *used, const int32_t *weights, int64_t count, int64_t row_bytes,
                     uint8_t *resized) {
    if (count == 2) add_few(used, weights, 2, row_bytes, resized);
    else if (count == 3) add_few(used, weights, 3, row_bytes, resized);
    else if (count == 4) add_few(used, weights, 4, row_bytes, resized);
    else add_many(used, weights, count, row_bytes, resized);
}

CLONES static void resize_all(const job *self) {
    const axis *rows = &self->rows, *columns = &self->columns;
    int64_t row_bytes = self->pixel_bytes * columns->from, new_row_bytes = CHANNELS * columns->to, y = 0;
    for (int64_t row = 0; row < rows->to; row++) {
        int64_t start = rows->start[row], count = rows->count[row];
        for (y = y < start ? start : y; y < start + count; y++) {
            const uint8_t *pixels = y == rows->from - 1 ? self->last : self->pixels + y * row_bytes;
            uint8_t *kept = self->ring + y % rows->taps * (new_row_bytes + 1);
            if (self->pixel_bytes == CHANNELS) resize_row(pixels, CHANNELS, columns, kept);
            else resize_row(pixels, PADDED, columns, kept);
        }
        for (int64_t tap = 0; tap < count; tap++)
            self->used[tap] = self->ring + (start + tap) % rows->taps * (new_row_bytes + 1);
        add_rows(self->used, rows->weights + rows->taps * row, count, new_row_bytes,
                 self->resized + row * new_row_bytes);
    }
}

int resize(const uint8_t *pixels, int64_t pixel_bytes, int64_t height, int64_t width, int64_t new_height,
           int64_t new_width, uint8_t *resized) {
    if (height < 1 || width < 1 || new_height < 1 || new_width < 1) return BAD_SIZE;
    if (pixel_bytes != CHANNELS && pixel_bytes != PADDED) return BAD_SIZE;
    job self = {.pixels = pixels, .pixel_bytes = pixel_bytes, .resized = resized};
    size_t row_bytes = (size_t)(pixel_bytes * width);
    int status = axis_init(&self.rows, height, new_height) | axis_init(&self.columns, width, new_width);
    self.ring = malloc((size_t)(self.rows.taps * (CHANNELS * new_width + 1)));
    self.last = calloc(row_bytes + 1, 1);
    self.used = malloc((size_t)self.rows.taps * sizeof *self.used);
    if (!self.ring || !self.last || !self.used) status = NO_MEMORY;
    if (status == OK) {
        axis_even(&self.columns);
        memcpy(self.last, pixels + (size_t)(height - 1) * row_bytes, row_bytes);
        resize_all(&self);
    }
    axis_free(&self.columns);
    axis_free(&self.rows);
    free(self.ring);
    free(self.last);
    free((void *)self.used);
    return status;
}
