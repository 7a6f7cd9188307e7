// BatchNorm with the statistics of the batch and a sum behind it, forward and backward. Tensors are [T * neurons];
// statistics, parameters and sums are float.
//
// Macros: those of channels.cuh.

// For each item and channel the number of elements, a number near their mean, and the sums of distances from it and of
// their squares, for which it reads the item a second time, from a cache. Here the memory is that of all steps.
extern "C" __global__ void norm_moments(
    const ELEMENT* __restrict__ x, float* __restrict__ counts, float* __restrict__ middles,
    float* __restrict__ distances, float* __restrict__ squares, index_t size, index_t segment, index_t channels) {
  const Items items(size, segment, channels);
  EACH_ITEM {
    float count[LANES], middle[LANES], sum[LANES], square[LANES];
    EACH_LANE count[l] = middle[l] = sum[l] = square[l] = 0.0f;
    EACH_PACK {
      float value[LANES];
      load(x + i, value);
      EACH_LANE count[l] += 1.0f, middle[l] += value[l];
    }
    items.join(count);
    items.join(middle);
    EACH_LANE middle[l] /= count[l];
    EACH_PACK {
      float value[LANES];
      load(x + i, value);
      EACH_LANE {
        const float distance = value[l] - middle[l];
        sum[l] += distance;
        square[l] += distance * distance;
      }
    }
    items.join(sum);
    items.join(square);
    items.put(count, item, counts);
    items.put(middle, item, middles);
    items.put(sum, item, distances);
    items.put(square, item, squares);
  }
}

extern "C" __global__ void norm_add_forward(
    const ELEMENT* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
    const ELEMENT* __restrict__ residual, ELEMENT* __restrict__ y, index_t size, index_t segment, index_t channels) {
  const Items items(size, segment, channels);
  EACH_ITEM {
    float factor[LANES], offset[LANES];
    items.channel(scale, item, factor);
    items.channel(shift, item, offset);
    EACH_PACK {
      float value[LANES], other[LANES];
      load(x + i, value);
      load(residual + i, other);
      EACH_LANE value[l] = (value[l] * factor[l] + offset[l]) + other[l];
      store(value, y + i);
    }
  }
}

// For each item and channel the sum of the gradients, and of their products with the distance of x from the mean.
extern "C" __global__ void norm_add_sums(
    const ELEMENT* __restrict__ grad, const ELEMENT* __restrict__ x, const float* __restrict__ mean,
    float* __restrict__ sums, float* __restrict__ products, index_t size, index_t segment, index_t channels) {
  const Items items(size, segment, channels);
  EACH_ITEM {
    float middle[LANES], sum[LANES], product[LANES];
    items.channel(mean, item, middle);
    EACH_LANE sum[l] = product[l] = 0.0f;
    EACH_PACK {
      float gradient[LANES], value[LANES];
      load(grad + i, gradient);
      load(x + i, value);
      EACH_LANE {
        sum[l] += gradient[l];
        product[l] += gradient[l] * (value[l] - middle[l]);
      }
    }
    items.join(sum);
    items.join(product);
    items.put(sum, item, sums);
    items.put(product, item, products);
  }
}

// The gradient of x from that of the normalised value, maybe in place: without its mean, and without its part along x.
extern "C" __global__ void norm_correct(
    const ELEMENT* grad, ELEMENT* grad_x, const ELEMENT* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ scale, const float* __restrict__ constant, const float* __restrict__ slope,
    index_t size, index_t segment, index_t channels) {
  const Items items(size, segment, channels);
  EACH_ITEM {
    float middle[LANES], factor[LANES], same[LANES], along[LANES];
    items.channel(mean, item, middle);
    items.channel(scale, item, factor);
    items.channel(constant, item, same);
    items.channel(slope, item, along);
    EACH_PACK {
      float gradient[LANES], value[LANES];
      load(grad + i, gradient);
      load(x + i, value);
      EACH_LANE gradient[l] = (gradient[l] - same[l] - (value[l] - middle[l]) * along[l]) * factor[l];
      store(gradient, grad_x + i);
    }
  }
}
