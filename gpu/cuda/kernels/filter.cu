// A filter's program for each row: see gpu/filter_program.py for the machine and its steps.
//
// A thread a row, 32 rows a warp. All lanes run the same step, so a warp never diverges but within
// one (a NULL, a division). The value on top of the stack is in a register, those below in shared
// memory, a column of it for each thread; NULLs and conditions are bits of two registers.
#include "compat.cuh"

constexpr int FILTER_THREADS = 256;
constexpr i64 I64_MIN = -I64_MAX - 1;

constexpr i64 US_PER_DAY = 86400000000LL;
constexpr i64 DATE_INFINITY = I32_MAX, DATE_MINUS_INFINITY = -DATE_INFINITY - 1;
// Days since 2000-01-01 of the first date, and of the day after the last (utils/date.h).
constexpr i64 FIRST_DAY = -2451545, DATE_END_DAY = 2147483494LL - 2451545;

enum FilterOp {
  LOAD, PRESENT, CONST, LOOK_UP_BIT, LOOK_UP, RANK, DROP, AMONG,
  EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, DISTINCT, IS_NULL, IS_TRUE, IS_FALSE, NOT,
  AND_THEN, OR_ELSE, AND, OR, WHEN, ELSE, CHOOSE, FLOAT_KEY,
  ADD, SUBTRACT, MULTIPLY, DIVIDE, REMAINDER, NEGATE, ABSOLUTE, FIT,
  FLOAT_ADD, FLOAT_SUBTRACT, FLOAT_MULTIPLY, FLOAT_DIVIDE, FLOAT_NEGATE, FLOAT_ABSOLUTE,
  TO_FLOAT, NARROW, TO_INTEGER, TO_BOOL, MOVE_DATE, DAYS_BETWEEN, TO_TIMESTAMP, TO_DATE, ALSO,
  ITEM_COUNT, SOME_IN, SOME_OUTSIDE, SOME_BETWEEN, NULL_ITEM
};

// A column as columns.py lays it out: values, validity bits, the kind of the values; of arrays also
// the place of each row's items among the values, and the validity bits of those.
struct ColumnAt {
  const u8* values;
  const u32* valid;
  i64 kind;
  const i64* offsets;
  const u32* item_valid;
};
enum ColumnKind { KIND_BOOL, KIND_I16, KIND_I32, KIND_I64, KIND_F32, KIND_F64, KIND_16_BYTES };

// ---------------------------------------------------------------- floats, all as float64
DEVICE double as_double(i64 bits) { return __longlong_as_double(bits); }
DEVICE i64 as_bits(double x) { return __double_as_longlong(x); }
constexpr i64 MAGNITUDE = 0x7fffffffffffffffLL;
constexpr i64 INFINITE = 0x7ff0000000000000LL;
DEVICE bool is_nan(i64 bits) { return (bits & MAGNITUDE) > INFINITE; }
DEVICE bool is_infinite(i64 bits) { return (bits & MAGNITUDE) == INFINITE; }
DEVICE bool is_zero(i64 bits) { return (bits & MAGNITUDE) == 0; }

// A float32 as a float64, by its bits: the conversion would flush small ones to 0 (-ftz=true).
DEVICE i64 widened(u32 bits) {
  const i64 sign = (i64)(bits >> 31) << 63, mantissa = bits & 0x7fffffu;
  const int exponent = (int)(bits >> 23 & 0xffu);
  if (exponent == 0xff) return sign | INFINITE | mantissa << 29;
  if (exponent) return sign | (i64)(exponent + 896) << 52 | mantissa << 29;
  return sign | as_bits((double)mantissa * 1.401298464324817e-45);  // 2^-149, exactly
}

// The nearest float32, ties to even, again as a float64.
DEVICE i64 narrowed(i64 bits) {
  const i64 sign = bits & ~MAGNITUDE, size = bits & MAGNITUDE;
  if (size >= INFINITE) return bits;
  if (size < 0x3810000000000000LL)  // below 2^-126: float32 has fixed steps of 2^-149 there
    return sign | as_bits(rint(as_double(size) * 7.136238463529799e+44) * 1.401298464324817e-45);
  const i64 rounded = (size + 0x0fffffff + (size >> 29 & 1)) & ~0x1fffffffLL;
  return sign | (rounded >= 0x47f0000000000000LL ? INFINITE : rounded);  // 2^128
}

DEVICE i64 float_key(i64 bits) {
  if (is_nan(bits)) return I64_MAX;
  if (is_zero(bits)) return 0;
  return bits < 0 ? bits ^ MAGNITUDE : bits;
}

// ---------------------------------------------------------------- integers
DEVICE bool fits(i64 x, int bytes) {
  if (bytes == 8) return true;
  const i64 bound = 1LL << (8 * bytes - 1);
  return x >= -bound && x < bound;
}
DEVICE i64 least(int bytes) { return bytes == 8 ? I64_MIN : -(1LL << (8 * bytes - 1)); }

// a * b, and whether it passes the range of 64 bits, from products of 32.
DEVICE i64 multiplied(i64 a, i64 b, bool& overflow) {
  const u64 x = a < 0 ? 0ull - (u64)a : (u64)a, y = b < 0 ? 0ull - (u64)b : (u64)b;
  const u64 x_high = x >> 32, y_high = y >> 32, x_low = (u32)x, y_low = (u32)y;
  const u64 middle = x_high * y_low + x_low * y_high, low = x_low * y_low;
  const u64 size = (middle << 32) + low;
  const bool negative = (a < 0) != (b < 0);
  overflow = (x_high && y_high) || middle >> 32 || size < low || size > (u64)I64_MAX + (negative ? 1 : 0);
  return (i64)(negative ? 0ull - size : size);
}

// ---------------------------------------------------------------- what steps read
DEVICE bool bit_of(const i64* __restrict__ words, i64 i) { return (u64)words[i >> 6] >> (i & 63) & 1; }

DEVICE i64 value_at(const ColumnAt& column, i64 row) {
  switch ((int)column.kind) {
    case KIND_BOOL: return column.values[row] != 0;
    case KIND_I16: return ((const i16*)column.values)[row];
    case KIND_I32: return ((const i32*)column.values)[row];  // @value-32
    case KIND_I64: case KIND_F64: return ((const i64*)column.values)[row];  // @value-64
    case KIND_F32: return widened(((const u32*)column.values)[row]);
    default: return 0;
  }
}
DEVICE bool is_valid(const ColumnAt& column, i64 row) {
  return column.valid[row >> 5] >> (row & 31) & 1;  // @valid
}

DEVICE u64 big_endian(uint2 bytes) {
  return (u64)__byte_perm(bytes.x, 0, 0x0123) << 32 | __byte_perm(bytes.y, 0, 0x0123);
}

// 2 * (items below) + (1 if equal to one) among `count` sorted pairs of words.
DEVICE i64 rank_of(const u8* value, const i64* __restrict__ items, int count) {
  const u64 high = big_endian(((const uint2*)value)[0]), low = big_endian(((const uint2*)value)[1]);
  int from = 0, to = count;
  while (from < to) {
    const int middle = (from + to) >> 1;
    const u64 h = (u64)items[2 * middle], l = (u64)items[2 * middle + 1];
    if (h < high || (h == high && l < low)) from = middle + 1;
    else to = middle;
  }
  const bool equal = from < count && (u64)items[2 * from] == high && (u64)items[2 * from + 1] == low;
  return 2 * (i64)from + equal;
}

DEVICE bool is_among(i64 x, const i64* __restrict__ items, int count) {
  int from = 0, to = count;
  while (from < to) {
    const int middle = (from + to) >> 1;
    if (items[middle] < x) from = middle + 1;
    else to = middle;
  }
  return from < count && items[from] == x;
}

// Whether an item of a row's array is what `op` looks for.
DEVICE bool some_item(int op, const ColumnAt& column, i64 row, const i64* __restrict__ set, int count) {
  for (i64 i = column.offsets[row]; i < column.offsets[row + 1]; i++) {
    if (!(column.item_valid[i >> 5] >> (i & 31) & 1)) {
      if (op == SOME_OUTSIDE || op == NULL_ITEM) return true;
      continue;
    }
    if (op == NULL_ITEM) continue;
    const i64 item = value_at(column, i);
    const bool found =
        op == SOME_BETWEEN ? item >= set[0] && item <= set[1] : is_among(item, set, count) != (op == SOME_OUTSIDE);
    if (found) return true;
  }
  return false;
}

DEVICE bool holds(int op, i64 x, i64 y) {
  switch (op) {
    case EQUAL: return x == y;
    case NOT_EQUAL: return x != y;
    case LESS: return x < y;
    case LESS_EQUAL: return x <= y;
    case GREATER: return x > y;
    default: return x >= y;
  }
}

DEVICE i64 integer_result(int op, i64 x, i64 y, int bytes, bool& bad) {
  i64 result;
  bool overflow = false;
  switch (op) {
    case ADD:
      result = (i64)((u64)x + (u64)y);
      overflow = ((x ^ result) & (y ^ result)) < 0;
      break;
    case SUBTRACT:
      result = (i64)((u64)x - (u64)y);
      overflow = ((x ^ y) & (x ^ result)) < 0;
      break;
    case MULTIPLY: result = multiplied(x, y, overflow); break;
    default: {
      overflow = y == 0 || (op == DIVIDE && x == I64_MIN && y == -1);
      const i64 divisor = y == 0 || y == -1 ? 1 : y;
      if (op == DIVIDE) result = y == -1 ? (i64)(0ull - (u64)x) : x / divisor;
      else result = y == -1 ? 0 : x % divisor;
    }
  }
  bad = overflow || !fits(result, bytes);
  return result;
}

DEVICE i64 float_result(int op, i64 x, i64 y, int bytes, bool& bad) {
  const double a = as_double(x), b = as_double(y);
  double exact;
  switch (op) {
    case FLOAT_ADD: exact = __dadd_rn(a, b); break;
    case FLOAT_SUBTRACT: exact = __dsub_rn(a, b); break;
    case FLOAT_MULTIPLY: exact = __dmul_rn(a, b); break;
    default: exact = __ddiv_rn(a, b);
  }
  const i64 result = bytes == 4 ? narrowed(as_bits(exact)) : as_bits(exact);
  bad = is_infinite(result) && !is_infinite(x) && !is_infinite(y);
  if (op == FLOAT_DIVIDE) {
    bad = bad || (is_zero(y) && !is_nan(x)) || (is_zero(result) && !is_zero(x) && !is_infinite(y));
  } else if (op == FLOAT_MULTIPLY) {
    bad = bad || (is_zero(result) && !is_zero(x) && !is_zero(y));
  }
  return result;
}

DEVICE bool is_infinite_date(i64 days) { return days == DATE_INFINITY || days == DATE_MINUS_INFINITY; }

// The result of a step that takes one value and leaves NULL as it is; `bad`: it has none.
DEVICE i64 converted(int op, i64 x, int a, bool& bad) {
  switch (op) {
    case FLOAT_KEY: return float_key(x);
    case NEGATE: case ABSOLUTE:
      bad = x == least(a);
      return op == NEGATE || x < 0 ? (i64)(0ull - (u64)x) : x;
    case FIT: bad = !fits(x, a); return x;
    case FLOAT_NEGATE: return x ^ ~MAGNITUDE;
    case FLOAT_ABSOLUTE: return x & MAGNITUDE;
    case TO_FLOAT: {
      const i64 wide = as_bits((double)x);
      return a == 4 ? narrowed(wide) : wide;
    }
    case NARROW: {
      const i64 narrow = narrowed(x);
      bad = (is_infinite(narrow) && !is_infinite(x)) || (is_zero(narrow) && !is_zero(x));
      return narrow;
    }
    case TO_INTEGER: {
      const double whole = rint(as_double(x)), bound = -(double)least(a);
      bad = !(whole >= -bound && whole < bound);
      return bad ? 0 : (i64)whole;
    }
    case TO_BOOL: return x != 0;
    case TO_TIMESTAMP: {
      if (x == DATE_INFINITY) return I64_MAX;
      if (x == DATE_MINUS_INFINITY) return I64_MIN;
      const bool beyond = x > I64_MAX / US_PER_DAY;
      bad = beyond && a;
      return beyond ? I64_MAX - 1 : x * US_PER_DAY;
    }
    default: {  // TO_DATE
      if (x == I64_MAX) return DATE_INFINITY;
      if (x == I64_MIN) return DATE_MINUS_INFINITY;
      const i64 days = x / US_PER_DAY;
      return days - (x % US_PER_DAY < 0);
    }
  }
}

// matches: a word for each 32 rows of [first, stop), those for which the program is TRUE, alive or
// not; first is a multiple of 32. failed[block]: whether one of its alive rows has an error.
// Shared memory: the steps, then `depth` values for each thread. Grid: a warp a word, grid-stride.
KERNEL __launch_bounds__(FILTER_THREADS, 4)
filter_rows(int steps, const int4* __restrict__ program, const i64* __restrict__ data,
            const ColumnAt* __restrict__ columns, const u32* __restrict__ alive, i64 first, i64 stop,
            u32* __restrict__ matches, u32* __restrict__ failed) {
  DYNAMIC_SHARED(int4, code);
  i64* const bottom = (i64*)(code + steps) + threadIdx.x;
  for (int i = (int)threadIdx.x; i < steps; i += FILTER_THREADS) code[i] = program[i];
  __syncthreads();

  const i64 words = (stop - first + 31) >> 5;
  const i64 warps = (i64)gridDim.x * (FILTER_THREADS / WARP);
  bool any_failed = false;
  for (i64 word = (i64)blockIdx.x * (FILTER_THREADS / WARP) + warp_id(); word < words; word += warps) {
    const i64 asked = first + 32 * word + lane_id();
    const i64 row = asked < stop ? asked : stop - 1;
    const bool counts = asked < stop && (alive[asked >> 5] >> lane_id() & 1);
    i64* below = bottom;
    i64 top = 0;
    u64 nulls = 0, needed = counts;  // bit 0: the top; whether the row's value is needed here
    for (int s = 0; s < steps; s++) {
      const int4 step = code[s];
      const int op = step.x;
      if (op <= RANK || op >= ITEM_COUNT) {  // one value more
        *below = top;  // @stack
        below += FILTER_THREADS;
        bool null = false;
        if (op == CONST) {
          top = data[step.y];
          null = step.z;
        } else {
          const ColumnAt column = columns[step.y];
          const bool valid = is_valid(column, row);
          if (op == LOAD) {
            top = valid ? value_at(column, row) : 0;
            null = !valid;
          } else if (op == PRESENT) {
            top = valid != (step.z != 0);
          } else if (op == RANK) {
            top = rank_of(column.values + 16 * row, data + step.z, step.w);
            null = !valid;
          } else if (op == ITEM_COUNT) {
            top = valid ? column.offsets[row + 1] - column.offsets[row] : 0;
            null = !valid;
          } else if (op > ITEM_COUNT) {
            const bool found = valid && some_item(op, column, row, data + step.z, step.w);
            top = found && op != NULL_ITEM;
            null = !valid || (found && op == NULL_ITEM);
          } else {
            const i64 entry = valid ? value_at(column, row) : step.w - 1;
            const i64* table = data + step.z;
            top = op == LOOK_UP ? table[entry] : (i64)bit_of(table, entry);
            table += op == LOOK_UP ? step.w : (step.w + 63) >> 6;
            null = bit_of(table, entry);
          }
        }
        nulls = nulls << 1 | null;
        continue;
      }
      const bool null = nulls & 1;
      bool bad = false, bad_null = null;
      if (op >= EQUAL && op <= DISTINCT || op == AND || op == OR || op >= ADD && op <= REMAINDER ||
          op >= FLOAT_ADD && op <= FLOAT_DIVIDE || op == MOVE_DATE || op == DAYS_BETWEEN) {
        below -= FILTER_THREADS;
        const i64 x = *below, y = top;
        const bool x_null = nulls >> 1 & 1;
        bool either = null || x_null;
        bad_null = either;
        nulls >>= 2;
        if (op <= GREATER_EQUAL) {
          top = !either && holds(op, x, y);
        } else if (op == DISTINCT) {
          top = (either ? null != x_null : x != y) != (step.y != 0);
          either = false;
        } else if (op == AND) {
          top = x & y;
          either = (x || x_null) && (y || null) && !top;
          needed >>= 1;
        } else if (op == OR) {
          top = x | y;
          either = either && !top;
          needed >>= 1;
        } else if (op <= REMAINDER) {
          top = integer_result(op, x, y, step.y, bad);
        } else if (op <= FLOAT_DIVIDE) {
          top = float_result(op, x, y, step.y, bad);
        } else if (op == MOVE_DATE) {
          top = is_infinite_date(x) ? x : step.y ? x - y : x + y;
          bad = !is_infinite_date(x) && (top < FIRST_DAY || top >= DATE_END_DAY);
        } else {
          top = (i32)(x - y);
          bad = is_infinite_date(x) || is_infinite_date(y);
        }
        nulls = nulls << 1 | either;
      } else {
        switch (op) {
          case DROP:
            below -= FILTER_THREADS;
            top = *below;
            nulls >>= 1;
            break;
          case AMONG: top = !null && is_among(top, data + step.y, step.z); break;
          case IS_NULL:
            top = null != (step.y != 0);
            nulls &= ~1ull;
            break;
          case IS_TRUE:
            top = (top != 0) != (step.y != 0);
            nulls &= ~1ull;
            break;
          case IS_FALSE:
            top = (!top && !null) != (step.y != 0);
            nulls &= ~1ull;
            break;
          case NOT: top = !top && !null; break;
          case AND_THEN: needed = needed << 1 | (needed & 1 & (u64)(top || null)); break;
          case OR_ELSE: needed = needed << 1 | (needed & 1 & (u64)!top); break;
          case ALSO: needed = needed << 1 | (needed & 1); break;
          case WHEN: needed = needed << 1 | (needed & 1 & (u64)top); break;
          case ELSE:
            needed = (needed & ~1ull) | (needed >> 1 & 1 & (u64)!below[-FILTER_THREADS]);
            break;
          case CHOOSE: {
            below -= 2 * FILTER_THREADS;
            const bool first_one = *below;
            if (first_one) top = below[FILTER_THREADS];
            nulls = (nulls >> 3) << 1 | (first_one ? nulls >> 1 & 1 : null);
            needed >>= 1;
            break;
          }
          default: top = converted(op, top, step.y, bad);
        }
      }
      any_failed |= bad && !bad_null && (needed & 1);
    }
    const u32 found = __ballot_sync(FULL_WARP, asked < stop && top == 1 && !(nulls & 1));
    if (lane_id() == 0) matches[word] = found;
  }
  const int block_failed = __syncthreads_or(any_failed);
  if (threadIdx.x == 0) failed[blockIdx.x] = block_failed != 0;
}
