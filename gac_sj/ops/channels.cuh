// What BatchNorm needs of kernels: how they divide memory into items with the sums of their channels, the statistics of a
// batch, and the gradient of its input.
//
// A thread works on items. Memory consists of segments, and the items of a segment are its strands: strand j has the
// packs j, j + strands, j + 2 strands, ... of it. Contiguous images have a segment for each channel of an image, and
// channels_last ones segments of several pixels with a strand for each pack of channels. So the channels of an item are
// the same in all its packs, neighbouring threads of a GPU read neighbouring memory, and sums do not depend on the
// number of threads.
//
// Macros: CHANNELS_LAST (0 or 1), STRANDS (of a contiguous segment), and those of elements.cuh.

struct Items {
  index_t size, segment, channels, strands;  // size: of the memory
  __device__ Items(index_t size, index_t segment, index_t channels) : size(size), segment(segment), channels(channels) {
    const index_t packs = segment / LANES;
    strands = CHANNELS_LAST ? channels / LANES : (packs < STRANDS ? packs : STRANDS);
  }
  __device__ index_t count() const { return (size + segment - 1) / segment * strands; }
  __device__ index_t begin(index_t item) const { return item / strands * segment + item % strands * LANES; }
  __device__ index_t end(index_t item) const {
    const index_t all = (item / strands + 1) * segment;
    return all < size ? all : size;
  }
  __device__ index_t step() const { return strands * LANES; }
  // A number for each channel of a pack.
  __device__ void channel(const float* numbers, index_t item, float* values) const {
    if (CHANNELS_LAST) load(numbers + item % strands * LANES, values);
    else EACH_LANE values[l] = numbers[item / strands % channels];
  }
  // The sums of the channels of an item, from those of its lanes.
  __device__ static void join(float* sums) {
    if (CHANNELS_LAST) return;
    float sum = 0.0f;
    for (int l = 0; l < LANES; ++l) sum += sums[l];
    EACH_LANE sums[l] = sum;
  }
  // Numbers of the channels of an item: [segments, channels], or [segments, STRANDS].
  __device__ void put(const float* values, index_t item, float* numbers) const {
    if (CHANNELS_LAST) store(values, numbers + item * LANES);
    else numbers[item / strands * STRANDS + item % strands] = values[0];
  }
};
#define EACH_ITEM \
  for (index_t item = first_pack(items.count()), last = last_pack(items.count()); item < last; item += next_pack())
#define EACH_PACK for (index_t i = items.begin(item), end = items.end(item); i < end; i += items.step())
