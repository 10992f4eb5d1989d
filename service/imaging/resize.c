/* Bilinear resize of RGB pixels: what Pillow computes, bit for bit, in a third to half of its time.
 *
 * The filter is a triangle that reaches one source pixel to each side, or, where the image shrinks, one pixel of the
 * result. Weights are rounded to 22 bits, and samples to 8 after each axis, the horizontal one first. A row of the source
 * is resized once and kept in a ring until no row of the result needs it, so the scratch is a few rows, and both passes
 * work on packed pixels. The build must not contract floating-point operations: they decide the weights.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "clones.h"

enum { OK = 0, NO_MEMORY = 1 };
enum { CHANNELS = 3, PRECISION = 22, HALF = 1 << (PRECISION - 1) };

typedef uint8_t bytes4 __attribute__((vector_size(4)));
typedef int32_t ints4 __attribute__((vector_size(16)));

/* Pixel p of the result is the sum of source pixels first[p] .. first[p] + count[p] - 1, with weights from taps * p on. */
typedef struct {
    int64_t from, to, taps;
    int64_t *first, *count;
    int32_t *weights;
} axis;

static int make_axis(axis *a, int64_t from, int64_t to) {
    double scale = (double)from / (double)to, support = scale > 1.0 ? scale : 1.0;
    a->from = from;
    a->to = to;
    int64_t reach = (int64_t)support;
    reach += (double)reach < support;
    a->taps = 2 * reach + 1;
    a->first = malloc((size_t)to * sizeof *a->first);
    a->count = malloc((size_t)to * sizeof *a->count);
    a->weights = malloc((size_t)(to * a->taps) * sizeof *a->weights);
    double *exact = malloc((size_t)a->taps * sizeof *exact);
    if (!a->first || !a->count || !a->weights || !exact) {
        free(exact);
        return NO_MEMORY;
    }
    for (int64_t p = 0; p < to; p++) {
        double centre = ((double)p + 0.5) * scale, sum = 0.0;
        int64_t first = (int64_t)(centre - support + 0.5), last = (int64_t)(centre + support + 0.5);
        first = first < 0 ? 0 : first;
        last = last > from ? from : last;
        for (int64_t tap = 0; tap < last - first; tap++) {
            double distance = fabs(((double)(tap + first) - centre + 0.5) * (1.0 / support));
            exact[tap] = distance < 1.0 ? 1.0 - distance : 0.0;
            sum += exact[tap];
        }
        for (int64_t tap = 0; tap < last - first; tap++)
            a->weights[p * a->taps + tap] = (int32_t)(0.5 + exact[tap] / sum * (1 << PRECISION));
        a->first[p] = first;
        a->count[p] = last - first;
    }
    free(exact);
    return OK;
}

static void free_axis(axis *a) {
    free(a->first);
    free(a->count);
    free(a->weights);
}

INLINE ints4 clip(ints4 value) {
    ints4 above = value > 255;
    return (above & 255) | (~above & value);
}

/* A row of the source, with a byte to spare behind it, to the columns of the result, with a byte to spare. */
INLINE void resize_row(const uint8_t *source, const axis *columns, uint8_t *row) {
    for (int64_t p = 0; p < columns->to; p++) {
        const uint8_t *pixel = source + CHANNELS * columns->first[p];
        const int32_t *weights = columns->weights + columns->taps * p;
        ints4 sum = {HALF, HALF, HALF, HALF};
        for (int64_t tap = 0; tap < columns->count[p]; tap++, pixel += CHANNELS) {
            bytes4 samples;
            memcpy(&samples, pixel, sizeof samples);
            sum += __builtin_convertvector(samples, ints4) * weights[tap];
        }
        bytes4 result = __builtin_convertvector(clip(sum >> PRECISION), bytes4);
        memcpy(row + CHANNELS * p, &result, sizeof result);
    }
}

INLINE void add_rows(const uint8_t *const *rows, const int32_t *weights, int64_t count, int64_t size, uint8_t *result) {
    enum { STRIP = 256 };
    for (int64_t start = 0; start < size; start += STRIP) {
        int64_t width = size - start < STRIP ? size - start : STRIP;
        int32_t sums[STRIP];
        for (int64_t i = 0; i < width; i++)
            sums[i] = HALF;
        for (int64_t tap = 0; tap < count; tap++) {
            const uint8_t *row = rows[tap] + start;
            int32_t weight = weights[tap];
            for (int64_t i = 0; i < width; i++)
                sums[i] += row[i] * weight;
        }
        for (int64_t i = 0; i < width; i++) {
            int32_t value = sums[i] >> PRECISION;
            result[start + i] = (uint8_t)(value > 255 ? 255 : value);
        }
    }
}

typedef struct {
    const uint8_t *source; /* (rows.from, columns.from, CHANNELS) */
    uint8_t *result;       /* (rows.to, columns.to, CHANNELS) */
    axis rows, columns;
    uint8_t *ring;        /* rows.taps resized rows, each with a byte to spare */
    uint8_t *last;        /* the last row of the source, with a byte to spare */
    const uint8_t **used; /* the rows of the ring that a row of the result is made of */
} job;

CLONES static void resize_all(const job *j) {
    int64_t row_bytes = CHANNELS * j->columns.from, size = CHANNELS * j->columns.to, next = 0;
    for (int64_t y = 0; y < j->rows.to; y++) {
        int64_t first = j->rows.first[y], count = j->rows.count[y];
        for (next = next < first ? first : next; next < first + count; next++) {
            int is_last = next == j->rows.from - 1;
            const uint8_t *source = is_last ? j->last : j->source + next * row_bytes;
            resize_row(source, &j->columns, j->ring + next % j->rows.taps * (size + 1));
        }
        for (int64_t tap = 0; tap < count; tap++)
            j->used[tap] = j->ring + (first + tap) % j->rows.taps * (size + 1);
        add_rows(j->used, j->rows.weights + j->rows.taps * y, count, size, j->result + y * size);
    }
}

/* Resize (height, width, 3) to (new_height, new_width, 3); all sizes are 1 or more. Gives OK or NO_MEMORY. */
int resize(const uint8_t *source, int64_t height, int64_t width, int64_t new_height, int64_t new_width, uint8_t *result) {
    job j = {.source = source, .result = result};
    int status = make_axis(&j.rows, height, new_height) || make_axis(&j.columns, width, new_width) ? NO_MEMORY : OK;
    size_t row_bytes = (size_t)(CHANNELS * width);
    if (status == OK) {
        j.ring = malloc((size_t)(j.rows.taps * (CHANNELS * new_width + 1)));
        j.last = malloc(row_bytes + 1);
        j.used = malloc((size_t)j.rows.taps * sizeof *j.used);
        status = j.ring && j.last && j.used ? OK : NO_MEMORY;
    }
    if (status == OK) {
        memcpy(j.last, source + (size_t)(height - 1) * row_bytes, row_bytes);
        j.last[row_bytes] = 0;
        resize_all(&j);
    }
    free_axis(&j.rows);
    free_axis(&j.columns);
    free(j.ring);
    free(j.last);
    free((void *)j.used);
    return status;
}
