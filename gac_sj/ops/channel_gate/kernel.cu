// The encoder after its stem, with a gate that has a number for each step and channel: the LIF spikes of z times
// gain * sigmoid(temporal * spatial), or with BEFORE the LIF spikes of z times that gate. Tensors are [T, neurons]; temporal
// is [T, channels], float.
//
// Macros: T, STATIC, BEFORE, and those of elements.cuh, neuron.cuh and channels.cuh. With STATIC, z and spatial are
// [neurons], the same at every step, and so are their gradients.

#define STEP (STATIC ? 0 : t * neurons)

extern "C" __global__ void channel_gate_forward(
    const ELEMENT* __restrict__ z, const float* __restrict__ temporal, const ELEMENT* __restrict__ spatial,
    ELEMENT* __restrict__ output, index_t neurons, index_t segment, index_t channels, float gain,
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const Items items(neurons, segment, channels);
  EACH_ITEM {
    float weight[T][LANES];
    EACH_STEP items.channel(temporal + t * channels, item, weight[t]);
    EACH_PACK {
      float current[LANES], map[LANES], v[LANES];
      EACH_LANE v[l] = rest;
      if (STATIC) load(z + i, current), load(spatial + i, map);
      EACH_STEP {
        if (!STATIC) load(z + STEP + i, current), load(spatial + STEP + i, map);
        float out[LANES];
        EACH_LANE {
          const float gate = gain * sigmoid(weight[t][l] * map[l]);
          const float h = charge(neuron, v[l], BEFORE ? gate * current[l] : current[l]), s = fire(neuron, h);
          v[l] = reset(neuron, h, s);
          out[l] = BEFORE ? s : s * gate;
        }
        store(out, output + t * neurons + i);
      }
    }
  }
}

// grad_temporal is [T, parts] with the sums of each item.
extern "C" __global__ void channel_gate_backward(
    const ELEMENT* __restrict__ grad_output, const ELEMENT* __restrict__ z, const float* __restrict__ temporal,
    const ELEMENT* __restrict__ spatial, ELEMENT* __restrict__ grad_z, float* __restrict__ grad_temporal,
    ELEMENT* __restrict__ grad_spatial, index_t parts, index_t neurons, index_t segment, index_t channels, float gain,
    float tau, float decay, float threshold, float rest, float a, float b, float c) {
  const Neuron neuron = {tau, decay, threshold, rest, a, b, c};
  const Items items(neurons, segment, channels);
  EACH_ITEM {
    float weight[T][LANES], sums[T][LANES];
    EACH_STEP {
      items.channel(temporal + t * channels, item, weight[t]);
      EACH_LANE sums[t][l] = 0.0f;
    }
    EACH_PACK {
      float current[LANES], map[LANES], v[LANES], h[T][LANES];
      EACH_LANE v[l] = rest;
      if (STATIC) load(z + i, current), load(spatial + i, map);
      EACH_STEP {
        if (!STATIC) load(z + STEP + i, current), load(spatial + STEP + i, map);
        EACH_LANE {
          const float gate = BEFORE ? gain * sigmoid(weight[t][l] * map[l]) : 1.0f;
          h[t][l] = charge(neuron, v[l], gate * current[l]);
          v[l] = reset(neuron, h[t][l], fire(neuron, h[t][l]));
        }
      }
      float kept[LANES], leaked[LANES], to_z[LANES], to_map[LANES];
      EACH_LANE kept[l] = leaked[l] = to_z[l] = to_map[l] = 0.0f;
      EACH_STEP_BACK {
        float grad[LANES];
        load(grad_output + t * neurons + i, grad);
        if (!STATIC) load(z + STEP + i, current), load(spatial + STEP + i, map);
        EACH_LANE {
          const float opened = sigmoid(weight[t][l] * map[l]), gate = gain * opened;
          const float grad_s = BEFORE ? grad[l] : grad[l] * gate;
          const float grad_h = grad_charged(neuron, h[t][l], grad_s, kept[l] + leaked[l]);
          kept[l] = grad_kept(neuron, grad_h);
          leaked[l] = grad_leaked(neuron, grad_h);
          const float grad_x = grad_input(neuron, grad_h);
          const float grad_gate = BEFORE ? grad_x * current[l] : grad[l] * fire(neuron, h[t][l]);
          const float slope = grad_gate * gate * (1.0f - opened);
          sums[t][l] += slope * map[l];
          to_z[l] = (BEFORE ? grad_x * gate : grad_x) + (STATIC ? to_z[l] : 0.0f);
          to_map[l] = slope * weight[t][l] + (STATIC ? to_map[l] : 0.0f);
        }
        if (!STATIC) store(to_z, grad_z + STEP + i), store(to_map, grad_spatial + STEP + i);
      }
      if (STATIC) store(to_z, grad_z + i), store(to_map, grad_spatial + i);
    }
    EACH_STEP {
      items.join(sums[t]);
      items.put(sums[t], item, grad_temporal + t * parts);
    }
  }
}
