// The root of an increasing function on the unit interval: the last part of a line search.
#pragma once

#include "core/macros.h"

SPARSESVM_BEGIN

// Regula falsi (Illinois) for f(0) = at_zero < 0 < f(1) = at_one, until |f| <= 0.1 |f(0)|. On a device all threads of a team call it
// together.
template <class Function>
SPARSESVM_HD double root_on_unit_interval(const Function& f, double at_zero, double at_one) {
  double low = 0, high = 1, f_low = at_zero, f_high = at_one;
  int side = 0;
  for (int step = 0; step < 40; ++step) {
    const double t = (low * f_high - high * f_low) / (f_high - f_low);
    const double value = f(t);
    if ((value < 0 ? -value : value) <= -0.1 * at_zero) return t;
    if (value > 0) {
      high = t;
      f_high = value;
      if (side > 0) f_low *= 0.5;
      side = 1;
    } else {
      low = t;
      f_low = value;
      if (side < 0) f_high *= 0.5;
      side = -1;
    }
  }
  return low;
}

SPARSESVM_END
