// SPDX-License-Identifier: GPL-3.0-or-later
//
// How the socket table's memory is cut up, and the few operations on its words that readers and
// writer share. Users take utproxy/socket_table.h.
//
// An ARRAY has `count` buckets. A bucket is 16 slots: a 32-byte head with a one-byte tag of each
// slot's flow (0: empty), compared sixteen at a time, and, in a region of their own, 16 entries of
// one cache line each. Where an entry lies follows from where its tag lies, so a lookup's two
// steps are one line of a region so dense that it stays in the caches (2 bytes a slot), and one
// line of an entry. The hash's 32 bits, as a fraction of 1, choose the bucket: any count will do,
// and buckets are in the order of hashes whatever it is. What does not fit into a bucket is in
// followers, buckets that belong to no array, linked: bucket and followers are a chain, the first
// is its head.
#ifndef UTPROXY_SOCKET_TABLE_LAYOUT_H_
#define UTPROXY_SOCKET_TABLE_LAYOUT_H_

#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__) && !defined(UTPROXY_TABLE_STEPS)
#define UTPROXY_WORDS_IN_PAIRS
#include <emmintrin.h>
#endif

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "utproxy/flow.h"
#include "utproxy/socket.h"

namespace utproxy::table_internal {

inline constexpr int kSlots = 16;

struct alignas(32) Bucket {
  uint64_t stamp;    // of a head; 0 in followers
  uint64_t link;     // low half: the number of the follower that is next, 0: none; upper: of a
                     // head, the tags that followers may have (FollowersMayHave)
  uint64_t tags[2];  // slot s: byte s % 8 of tags[s / 8], the lowest first
};
static_assert(sizeof(Bucket) == 32 && alignof(Bucket) == 32, "two share a cache line");

struct alignas(64) Entry {
  uint64_t words[8];
};
static_assert(sizeof(Entry) == sizeof(Socket) && alignof(Entry) == 64);

static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);
static_assert(std::atomic_ref<uint64_t>::required_alignment == alignof(uint64_t));

#ifdef UTPROXY_TABLE_STEPS
// Called before each access to a shared word, in tests that choose what happens between any two.
void BeforeLoad();
void BeforeStore();
#else
inline void BeforeLoad() {}
inline void BeforeStore() {}
#endif

// Every shared word is read and written by these, and every shared pointer.
inline uint64_t Load(const uint64_t& word) {
  BeforeLoad();
  return std::atomic_ref<uint64_t>(const_cast<uint64_t&>(word)).load(std::memory_order_acquire);
}
inline void Store(uint64_t& word, uint64_t value) {
  BeforeStore();
  std::atomic_ref<uint64_t>(word).store(value, std::memory_order_release);
}
template <class T>
T* Load(const std::atomic<T*>& pointer) {
  BeforeLoad();
  return pointer.load(std::memory_order_acquire);
}
template <class T>
void Store(std::atomic<T*>& pointer, T* value) {
  BeforeStore();
  pointer.store(value, std::memory_order_release);
}

#ifdef UTPROXY_WORDS_IN_PAIRS
// Two neighbouring words, at a multiple of 16 bytes, in one instruction: half of the loads that a
// lookup would need else, and of those a core can have only so many under way. Each word is as of
// one moment, as x86-64 splits an aligned load nowhere but between its words; both together need
// not be. Loads stay in order as any on x86-64; the compiler keeps volatile ones in order among
// themselves and behind an acquire, and Unchanged() is in the way of their sinking.
inline __m128i LoadPair(const uint64_t* words) {
  return *reinterpret_cast<const volatile __m128i*>(words);
}
#endif

// A bucket with its slots' entries.
struct Place {
  Bucket* bucket;
  Entry* entries;
};

// Never changes. Its buckets' and entries' memory belongs to no other array, ever.
struct alignas(32) Array {
  Bucket* heads;
  Entry* entries;
  uint64_t count;

  uint64_t IndexOf(uint32_t hash) const { return hash * count >> 32; }
  Place At(uint64_t index) const { return {heads + index, entries + index * kSlots}; }
  // The lowest hash that belongs to bucket `index`; 2^32 for index = count.
  uint64_t FirstHash(uint64_t index) const { return ((index << 32) + count - 1) / count; }
};

// The 32 bits of a flow's hash that the table goes by: never with a tag of 0.
constexpr uint32_t Fold(uint64_t hash) {
  const auto upper = static_cast<uint32_t>(hash >> 32);
  return upper | ((upper & 0xff) == 0);
}
constexpr uint8_t TagOf(uint32_t hash) { return static_cast<uint8_t>(hash); }

// A head's link tells which tags need not be looked for in its followers: of a tag's low five bits,
// each value has a bit. So a chain that is one socket too long costs its other sockets nothing.
constexpr bool FollowersMayHave(uint64_t link, uint8_t tag) {
  return (link >> (tag | 32) % 64 & 1) != 0;
}
constexpr uint64_t FilterBit(uint8_t tag) { return uint64_t{1} << (tag | 32) % 64; }
constexpr uint64_t NumberOf(uint64_t link) { return link & 0xffffffff; }

// Bit s is set for each slot s whose tag is `tag`. For processors without SSE2, and for tests.
constexpr uint32_t MatchPortable(uint64_t tags0, uint64_t tags1, uint8_t tag) {
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  const auto eight = [&](uint64_t tags) {
    const uint64_t t = tags ^ tag * 0x0101010101010101u;
    // A byte's top bit stays clear only where the byte is 0; no carry leaves a byte.
    const uint64_t zero = ~(((t & kLow) + kLow) | t | kLow);
    // Gathers bits 0, 8, ... 56: of the products no two meet, and those wanted end up on top.
    return static_cast<uint32_t>((zero >> 7) * 0x0102040810204080u >> 56);
  };
  return eight(tags0) | eight(tags1) << 8;
}

// The same for a bucket. Each word of tags is as of one moment, not both together.
inline uint32_t Match(const Bucket& bucket, uint8_t tag) {
#ifdef UTPROXY_WORDS_IN_PAIRS
  const __m128i wanted = _mm_set1_epi8(static_cast<char>(tag));
  const __m128i equal = _mm_cmpeq_epi8(LoadPair(bucket.tags), wanted);  // (A)
  return static_cast<uint32_t>(_mm_movemask_epi8(equal));
#else
  return MatchPortable(Load(bucket.tags[0]), Load(bucket.tags[1]), tag);  // (A)
#endif
}
// The second load of a head's stamp (C): nothing read before it has been reused since the first.
inline bool Unchanged(const Bucket& head, uint64_t stamp) {
  std::atomic_signal_fence(std::memory_order_acq_rel);
  return Load(head.stamp) == stamp;
}
inline uint32_t UsedOf(const Bucket& bucket) { return ~Match(bucket, 0) & ((1u << kSlots) - 1); }
// Of what Match returns, not 0.
inline int FirstOf(uint32_t matches) { return std::countr_zero(matches); }
inline int LastOf(uint32_t matches) { return 31 - std::countl_zero(matches); }

using SocketWords = std::array<uint64_t, 8>;
static_assert(sizeof(SocketWords) == sizeof(Socket));

// The key is a Socket's first 37 bytes, so the two are compared word by word, the fifth in part.
static_assert(offsetof(Socket, local) == offsetof(FlowKey, local) &&
              offsetof(Socket, remote) == offsetof(FlowKey, remote) &&
              offsetof(Socket, local_port) == offsetof(FlowKey, local_port) &&
              offsetof(Socket, remote_port) == offsetof(FlowKey, remote_port) &&
              offsetof(Socket, proto) == offsetof(FlowKey, proto) &&
              offsetof(FlowKey, zero) == 37 && sizeof(FlowKey) == 40);
inline constexpr uint64_t kFifthWordMask =
    std::bit_cast<uint64_t>(std::array<uint8_t, 8>{0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0});

inline uint64_t WordOf(const FlowKey& key, int i) {
  uint64_t word;
  std::memcpy(&word, reinterpret_cast<const char*>(&key) + size_t{8} * static_cast<size_t>(i), 8);
  return word;
}

// What a lookup takes of an entry: IsOf compares its key, ReadAll copies it, to be looked at when
// the stamp has been found unchanged. For processors without SSE2, and for TSan, by words.
#ifdef UTPROXY_WORDS_IN_PAIRS
[[gnu::always_inline]] inline bool IsOf(const Entry& entry, const FlowKey& key) {
  const auto* const bytes = reinterpret_cast<const char*>(&key);
  const __m128i wanted0 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  const __m128i wanted1 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16));
  const __m128i wanted2 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 32));
  const __m128i mask = _mm_cvtsi64_si128(static_cast<int64_t>(kFifthWordMask));
  __m128i difference = _mm_xor_si128(LoadPair(&entry.words[4]), wanted2);  // (A) (B)
  difference = _mm_and_si128(difference, mask);
  difference = _mm_or_si128(difference, _mm_xor_si128(LoadPair(&entry.words[0]), wanted0));
  difference = _mm_or_si128(difference, _mm_xor_si128(LoadPair(&entry.words[2]), wanted1));
  return _mm_movemask_epi8(_mm_cmpeq_epi8(difference, _mm_setzero_si128())) == 0xffff;
}
struct Image {
  __m128i pairs[4];
};
[[gnu::always_inline]] inline Image ReadAll(const Entry& entry) {
  return {{LoadPair(&entry.words[0]), LoadPair(&entry.words[2]), LoadPair(&entry.words[4]),
           LoadPair(&entry.words[6])}};  // (A) (B)
}
[[gnu::always_inline]] inline void Write(const Image& image, Socket* out) {
  for (int i = 0; i < 4; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + i, image.pairs[i]);
}
#else
[[gnu::always_inline]] inline bool IsOf(const Entry& entry, const FlowKey& key) {
  uint64_t difference = 0;
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
    const uint64_t differs = Load(entry.words[i]) ^ WordOf(key, i);  // (A) (B)
    difference |= i == 4 ? differs & kFifthWordMask : differs;
  }
  return difference == 0;
}
struct Image {
  SocketWords words;
};
[[gnu::always_inline]] inline Image ReadAll(const Entry& entry) {
  Image image;
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) image.words[i] = Load(entry.words[i]);  // (A) (B)
  return image;
}
[[gnu::always_inline]] inline void Write(const Image& image, Socket* out) {
  *out = std::bit_cast<Socket>(image.words);
}
#endif

[[gnu::always_inline]] inline Socket SocketOf(const Image& image) {
  return std::bit_cast<Socket>(image);
}
inline Socket Copy(const Entry& entry) { return SocketOf(ReadAll(entry)); }

}  // namespace utproxy::table_internal

#endif  // UTPROXY_SOCKET_TABLE_LAYOUT_H_
