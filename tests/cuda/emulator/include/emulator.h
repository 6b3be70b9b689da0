// Lets kernels/*.cu compile with g++ and run on a CPU with SIMT semantics: one fiber for each CUDA
// thread, blocks one after another. Include it before the kernel's text. README.md says what is
// modelled and what is not.
#pragma once
#include "keywords.h"
#include "vectors.h"
#include "state.h"
#include "warp.h"
#include "arithmetic.h"
#include "atomics.h"
#include "cuda_fp16.h"
#include "ptx.h"
#include "launch.h"
