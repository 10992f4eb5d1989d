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
