// Definitions of what CUDA C has and C++ lacks. With this file in front, a C++ compiler builds the kernels for the CPU.
//
// OpenMP threads share the blocks of the grid. A block processes neighbouring packs, and loops over lanes become vector
// instructions. For tests, EMULATE_GRID assigns packs to blocks and threads in the same way as on a GPU.

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#define HOST
#define __global__
#define __device__

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
extern "C" __attribute__((simd("notinbranch"))) float expf(float) noexcept;  // glibc also has a vector version
#endif

struct dim { unsigned x, y; };
static thread_local dim blockIdx, threadIdx, gridDim, blockDim;

static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
#ifdef __FLT16_MAX__  // the compiler supports half precision (GCC 12 and later, Clang)
static inline float half_to_float(unsigned short bits) { _Float16 x; std::memcpy(&x, &bits, 2); return x; }
static inline unsigned short float_to_half(float x) {
  const _Float16 y = x;
  unsigned short bits;
  std::memcpy(&bits, &y, 2);
  return bits;
}
#else
// A half has a sign bit, 5 bits of exponent (15 stands for 2^0) and 10 bits of fraction. A float of the same value
// times 2^-112 has the same bits, shifted left by 13.
static inline float half_to_float(unsigned short bits) {
  const unsigned magnitude = bits & 0x7fffu;
  const float x = magnitude >= 0x7c00u ? __uint_as_float(0x7f800000u | (magnitude & 0x3ffu) << 13)
                                       : __uint_as_float(magnitude << 13) * 0x1p112f;
  return bits & 0x8000u ? -x : x;
}
static inline unsigned short float_to_half(float x) {
  const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;  // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude < 0x38800000u)  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    return sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
  const unsigned rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);  // round to nearest, ties to even
  return sign | (rounded - 0x38000000u) >> 13;
}
#endif

#ifdef EMULATE_GRID
static inline long long first_pack(long long) { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }
static inline long long last_pack(long long packs) { return packs; }
static inline long long next_pack() { return gridDim.x * (long long)blockDim.x; }
#else
static inline long long first_pack(long long packs) { return packs * blockIdx.x / gridDim.x; }
static inline long long last_pack(long long packs) { return packs * (blockIdx.x + 1) / gridDim.x; }
static constexpr long long next_pack() { return 1; }
#endif

// The arguments are pointers to the values, as for the CUDA driver.
template <class... A, std::size_t... I>
static void run(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
static void launch(void (*kernel)(A...), void** arguments, dim grid, unsigned block, int workers) {
#pragma omp parallel for num_threads(workers)
  for (long long b = 0; b < (long long)grid.x * grid.y; ++b) {
    gridDim = grid;
    blockDim = {block, 1};
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x)};
    for (threadIdx = {0, 0}; threadIdx.x < block; ++threadIdx.x) run(kernel, arguments, std::index_sequence_for<A...>());
  }
}
