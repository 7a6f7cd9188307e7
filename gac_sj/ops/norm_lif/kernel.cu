// BatchNorm and the LIF neuron behind it, forward and backward. The backward pass computes the normalised values and the
// potentials again. Tensors are [T, neurons]; statistics, parameters, potentials and sums are float.
//
// Macros: T, OF_BATCH (0 or 1), and those of channels.cuh and neuron.cuh.

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
// the distance of x from the mean. With OF_BATCH, statistics are those of x, and norm_correct completes the
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
