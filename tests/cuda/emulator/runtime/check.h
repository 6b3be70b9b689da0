// The checker's parts: shadow.cpp judges each access, traffic.cpp counts them by warp, hooks.cpp
// receives them from code that was compiled with -fsanitize=thread.
#pragma once
#include <cstdint>

#include "block.h"

namespace emu {
struct Access {
  uintptr_t address;
  int size;
  bool write, atomic;
  void* pc;
};
enum CheckOption : int { CHECK_RACES = 1, CHECK_INITIALISATION = 2, CHECK_TRAFFIC = 4 };
extern int check_options;

void on_access(const Access& access);
void trace(const Thread& thread, const Access& access, bool shared);
void flush_warp(Block& b, int warp);
}  // namespace emu
