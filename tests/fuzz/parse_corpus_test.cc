// SPDX-License-Identifier: GPL-3.0-or-later
// The fuzzer's properties in an ordinary test run: on the committed corpus and on packets mutated
// from it by a generator of fixed seed, so that a failure repeats.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "parse_properties.h"
#include "parse_seeds.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

std::map<std::string, Bytes> ReadCorpus() {
  std::map<std::string, Bytes> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(UTPROXY_PARSE_CORPUS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    corpus[entry.path().filename().string()] =
        Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

std::string Hex(const Bytes& bytes) {
  std::string text;
  for (const uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

// Values at which lengths, types and offsets turn.
constexpr uint8_t kTelling[] = {0,  1,  2,  4,  5,  6,   7,   8,   17,  20,  40,   43,   44,
                                50, 51, 58, 59, 60, 127, 128, 132, 135, 136, 0x45, 0x60, 255};

Bytes Mutate(Bytes bytes, std::mt19937* random) {
  const auto pick = [random](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(*random);
  };
  for (size_t changes = 1 + pick(4); changes > 0 && !bytes.empty(); --changes) {
    const size_t at = pick(bytes.size());
    switch (pick(6)) {
      case 0:
        bytes[at] = static_cast<uint8_t>(pick(256));
        break;
      case 1:
        bytes[at] = kTelling[pick(std::size(kTelling))];
        break;
      case 2:
        bytes[at] = static_cast<uint8_t>(bytes[at] ^ 1u << pick(8));
        break;
      case 3:
        bytes.resize(at);
        break;
      case 4:  // another 8 bytes in the middle move everything behind
        bytes.insert(bytes.begin() + static_cast<long>(at), 8, static_cast<uint8_t>(pick(256)));
        break;
      default:  // near the start, where the lengths are
        bytes[pick(std::min<size_t>(bytes.size(), 52))] = kTelling[pick(std::size(kTelling))];
    }
  }
  return bytes;
}

TEST(ParseCorpus, HoldsEverySeed) {
  const std::map<std::string, Bytes> corpus = ReadCorpus();
  for (const Seed& seed : ParseSeeds()) {
    const auto it = corpus.find(seed.name);
    ASSERT_NE(it, corpus.end()) << seed.name << " is missing: run write_parse_corpus";
    EXPECT_EQ(Hex(it->second), Hex(seed.bytes)) << seed.name << " is stale: run write_parse_corpus";
  }
}

TEST(ParseCorpus, PropertiesHold) {
  for (const auto& [name, bytes] : ReadCorpus()) {
    EXPECT_EQ(ParseViolation(bytes), nullptr) << name << ": " << ParseViolation(bytes);
  }
}

TEST(ParseCorpus, PropertiesHoldOfMutatedPackets) {
  const std::map<std::string, Bytes> corpus = ReadCorpus();
  ASSERT_FALSE(corpus.empty());
  constexpr int kEach = 10000;
  std::mt19937 random(20230101);
  int outcomes[4] = {};
  for (const auto& [name, seed] : corpus) {
    for (int i = 0; i < kEach; ++i) {
      const Bytes bytes = Mutate(seed, &random);
      const char* violation = ParseViolation(bytes);
      ASSERT_EQ(violation, nullptr) << violation << ": " << Hex(bytes);
      if (bytes.size() < 2) continue;
      Packet p;
      const absl::Span<const uint8_t> packet(bytes.data() + 2, bytes.size() - 2);
      const size_t beyond = static_cast<size_t>(bytes[0] << 8 | bytes[1]);
      ParsePacket(packet, static_cast<uint32_t>(packet.size() + beyond), &p);
      ++outcomes[static_cast<int>(p.outcome)];
    }
  }
  // The mutations are worth something only while each outcome is met often.
  for (const int count : outcomes) EXPECT_GT(count, 1000);
}

}  // namespace
}  // namespace utproxy
