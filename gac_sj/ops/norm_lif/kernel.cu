// BatchNorm and the LIF neuron behind it, forward and backward. The backward pass computes the normalised values and the
// potentials again. Tensors are [T, neurons]; statistics, parameters, potentials and sums are float.
//
// Macros: T, OF_BATCH (0 or 1), and those of elements.cuh, neuron.cuh and channels.cuh.

// For each item and channel the number of elements, a number near their mean, and the sums of distances from it and of
// their squares, for which it reads the item a second time, from a cache. Here the memory is that of all steps.
extern "C" __global__ void norm_lif_moments(
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

extern "C" __global__ void norm_lif_forward(
    const ELEMENT* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
    const float* __restrict__ v_first,  // may be null: the resting potential
    ELEMENT* __restrict__ spikes, float* __restrict__ v_last, index_t neurons, index_t segment, index_t channels,
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const Items items(neurons, segment, channels);
  EACH_ITEM {
    float factor[LANES], offset[LANES];
    items.channel(scale, item, factor);
    items.channel(shift, item, offset);
    EACH_PACK {
      float v[LANES];
      if (v_first) load(v_first + i, v);
      else EACH_LANE v[l] = rest;
      EACH_STEP {
        float value[LANES], s[LANES];
        load(x + t * neurons + i, value);
        EACH_LANE {
          const float h = charge(neuron, v[l], value[l] * factor[l] + offset[l]);
          s[l] = fire(neuron, h);
          v[l] = reset(neuron, h, s[l]);
        }
        store(s, spikes + t * neurons + i);
      }
      store(v, v_last + i);
    }
  }
}

// Writes the gradient of the normalised value (of x, unless OF_BATCH), and for each item its sum and the sum of its products with
// the distance of x from the mean. With OF_BATCH, statistics are those of x, and norm_lif_correct completes the
// gradient; otherwise they are given numbers.
extern "C" __global__ void norm_lif_backward(
    const ELEMENT* __restrict__ grad_spikes, const float* __restrict__ grad_v_last,  // both may be null
    const ELEMENT* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ scale,
    const float* __restrict__ shift, const float* __restrict__ v_first,  // v_first may be null
    ELEMENT* __restrict__ grad_x, float* __restrict__ grad_v_first,  // grad_v_first may be null
    float* __restrict__ sums, float* __restrict__ products, index_t neurons, index_t segment, index_t channels,
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const Items items(neurons, segment, channels);
  EACH_ITEM {
    float middle[LANES], factor[LANES], offset[LANES], sum[LANES], product[LANES];
    items.channel(mean, item, middle);
    items.channel(scale, item, factor);
    items.channel(shift, item, offset);
    EACH_LANE sum[l] = product[l] = 0.0f;
    EACH_PACK {
      float h[T][LANES], value[T][LANES], v[LANES];
      if (v_first) load(v_first + i, v);
      else EACH_LANE v[l] = rest;
      EACH_STEP {
        load(x + t * neurons + i, value[t]);
        EACH_LANE {
          h[t][l] = charge(neuron, v[l], value[t][l] * factor[l] + offset[l]);
          v[l] = reset(neuron, h[t][l], fire(neuron, h[t][l]));
        }
      }
      float kept[LANES], leaked[LANES];  // their sum is the gradient of the potential after the step's reset
      if (grad_v_last) load(grad_v_last + i, kept);
      else EACH_LANE kept[l] = 0.0f;
      EACH_LANE leaked[l] = 0.0f;
      EACH_STEP_BACK {
        float grad_s[LANES], grad[LANES];
        if (grad_spikes) load(grad_spikes + t * neurons + i, grad_s);
        else EACH_LANE grad_s[l] = 0.0f;
        EACH_LANE {
          const float grad_h = grad_charged(neuron, h[t][l], grad_s[l], kept[l] + leaked[l]);
          grad[l] = grad_input(neuron, grad_h);
          kept[l] = grad_kept(neuron, grad_h);
          leaked[l] = grad_leaked(neuron, grad_h);
          sum[l] += grad[l];
          product[l] += grad[l] * (value[t][l] - middle[l]);
          if (!OF_BATCH) grad[l] *= factor[l];
        }
        store(grad, grad_x + t * neurons + i);
      }
      if (grad_v_first) {
        EACH_LANE kept[l] += leaked[l];
        store(kept, grad_v_first + i);
      }
    }
    items.join(sum);
    items.join(product);
    items.put(sum, item, sums);
    items.put(product, item, products);
  }
}

// The gradient of x from that of the normalised value, in place: without its mean, and without its part along x.
extern "C" __global__ void norm_lif_correct(
    ELEMENT* __restrict__ grad, const ELEMENT* __restrict__ x, const float* __restrict__ mean,
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
      store(gradient, grad + i);
    }
  }
}
