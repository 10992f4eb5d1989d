/* Prototypes and results of the compiled functions, and how they are compiled. */
#ifndef ECENET_NATIVE_H
#define ECENET_NATIVE_H

#include <stdint.h>

enum { OK = 0, NOT_FINITE = 1, NO_MEMORY = 2, BAD_SIZE = 3 };
enum { MAX_CLASSES = 256 };

/* Label (new_height, new_width) pixels from logits (classes, height, width) of value_bytes each; BAD_SIZE unless all
 * sides are 1 or more, classes 1 to MAX_CLASSES, and value_bytes 4 for float32 or 2 for half precision. */
int label_map(const void *logits, int64_t value_bytes, int64_t classes, int64_t height, int64_t width,
              int64_t new_height, int64_t new_width, uint8_t *labels);

/* The float32 values of count numbers of half precision; NaN becomes infinity, as either infinity does. */
void widen(const uint16_t *halves, int64_t count, float *values);

/* Resize pixels (height, width, pixel_bytes) to (new_height, new_width, 3); of 4 bytes the last does not count.
 * BAD_SIZE unless all sides are 1 or more and pixel_bytes is 3 or 4. */
int resize(const uint8_t *pixels, int64_t pixel_bytes, int64_t height, int64_t width, int64_t new_height,
           int64_t new_width, uint8_t *resized);

/* Functions that are compiled once per instruction set, of which the loader takes the best that the machine has. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef CLONES
#define CLONES
#endif

/* Inlined into such a function, so that each of its clones compiles them for its own instruction set. */
#define INLINE static inline __attribute__((always_inline))

#endif
