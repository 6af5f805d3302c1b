// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BENCH_LAB_LOAD_H_
#define UTPROXY_BENCH_LAB_LOAD_H_

#include <cstddef>
#include <cstdint>

#include "common.h"

// The lab's traffic: commands of one program, `load`. Unlike tests/system/traffic it checks no
// bytes, since checking would be what is measured. Each prints one JSON line.
namespace lab {

int Fill(int argc, char** argv);
int Serve(int argc, char** argv);
int Bulk(int argc, char** argv);
int Connect(int argc, char** argv);
int Ping(int argc, char** argv);
int Datagrams(int argc, char** argv);
int Hold(int argc, char** argv);

// The first byte of a connection tells the server what it is for.
inline constexpr char kBulk = 'b';     // read until the end, then answer with the bytes, a uint64_t
inline constexpr char kRequest = 'r';  // answer with kRequestBytes, then wait for the end
inline constexpr char kPing = 'p';     // answer every byte with one byte
inline constexpr size_t kRequestBytes = 100;

// CLOCK_MONOTONIC.
int64_t NowNs();

}  // namespace lab

#endif  // UTPROXY_BENCH_LAB_LOAD_H_
