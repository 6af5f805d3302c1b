// SPDX-License-Identifier: GPL-3.0-or-later
// Captures: what is written is read back, every link type is unwrapped, and bytes cut or changed
// anywhere lead to an error or to fewer packets, never further.
#include <gtest/gtest.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "support/packets.h"
#include "trace/capture_reader.h"
#include "trace/nflog_codec.h"
#include "trace/pcapng_writer.h"

namespace utproxy {
namespace {

using testing::Datagram;

struct Read {
  absl::Status status;
  std::vector<CapturedPacket> packets;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::string> prefixes;
  uint64_t skipped = 0;
};

Read ReadAll(std::string file) {
  Read out;
  std::FILE* stream = ::fmemopen(file.data(), file.size(), "rb");
  absl::StatusOr<CaptureReader> reader = CaptureReader::Open(stream, "test");
  out.status = reader.status();
  if (!reader.ok()) return out;
  CapturedPacket packet;
  while (true) {
    const absl::StatusOr<bool> more = reader->Next(&packet);
    out.status = more.status();
    if (!more.ok() || !*more) break;
    out.packets.push_back(packet);
    out.bytes.emplace_back(packet.bytes.begin(), packet.bytes.end());
    out.prefixes.emplace_back(packet.prefix);
  }
  out.skipped = reader->skipped();
  return out;
}

std::string Pcapng(const std::vector<uint8_t>& payload) {
  PcapngWriter writer;
  std::string file = writer.Header("test");
  for (const char* interface : {"lan0", "wan0", "lan0", ""}) {
    const std::vector<uint8_t> frame = WriteNflog({.family = AF_INET,
                                                   .group = 3,
                                                   .mark = 0xa0,
                                                   .indev = 7,
                                                   .arrived_ns = 0,
                                                   .sequence = std::nullopt,
                                                   .prefix = "who asks",
                                                   .payload = payload});
    file += writer.Packet({.time_ns = 1'700'000'000'123'456'789,
                           .bytes = frame,
                           .true_length = static_cast<uint32_t>(frame.size()),
                           .interface = interface,
                           .queue = 3,
                           .comment = std::string(100000, 'x')});
  }
  return file;
}

TEST(Capture, WhatIsWrittenIsRead) {
  for (const size_t size : {28, 29, 30, 31}) {
    std::vector<uint8_t> payload = Datagram();
    payload.resize(size);
    const Read read = ReadAll(Pcapng(payload));
    ASSERT_TRUE(read.status.ok()) << read.status;
    ASSERT_EQ(read.packets.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(read.packets[i].time_ns, 1'700'000'000'123'456'789);
      EXPECT_EQ(read.packets[i].iif, 7u);
      EXPECT_EQ(read.packets[i].mark, 0xa0u);
      EXPECT_EQ(read.packets[i].true_length, size);
      EXPECT_EQ(read.bytes[i], payload);
      EXPECT_EQ(read.prefixes[i], "who asks");
    }
  }
}

TEST(Capture, AFileOfNoPacketsIsOneToo) {
  PcapngWriter writer;
  const Read read = ReadAll(writer.Header("test"));
  EXPECT_TRUE(read.status.ok()) << read.status;
  EXPECT_TRUE(read.packets.empty());
}

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

// A classic pcap file of one packet.
std::string Pcap(uint32_t link, const std::string& frame) {
  std::string file;
  Put(uint32_t{0xa1b2c3d4}, &file);
  Put(uint16_t{2}, &file);
  Put(uint16_t{4}, &file);
  Put(uint64_t{0}, &file);
  Put(uint32_t{65535}, &file);
  Put(link, &file);
  Put(uint32_t{12}, &file);
  Put(uint32_t{34}, &file);
  Put(static_cast<uint32_t>(frame.size()), &file);
  Put(static_cast<uint32_t>(frame.size()), &file);
  return file + frame;
}

std::string Bytes(std::initializer_list<int> bytes) { return {bytes.begin(), bytes.end()}; }

TEST(Capture, LinkTypes) {
  const std::vector<uint8_t> datagram = Datagram();
  const std::string ip(datagram.begin(), datagram.end());
  const std::string macs(12, '\1');
  const struct {
    uint32_t link;  // LINKTYPE_ numbers, as they stand in files
    std::string header;
    uint32_t iif;
  } kCases[] = {
      {1, macs + Bytes({0x08, 0x00}), 0},
      {1, macs + Bytes({0x81, 0x00, 0, 5, 0x08, 0x00}), 0},
      {1, macs + Bytes({0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6, 0x08, 0x00}), 0},
      {101, "", 0},
      {228, "", 0},
      {113, std::string(14, '\0') + Bytes({0x08, 0x00}), 0},
      {276, Bytes({0x08, 0x00, 0, 0, 0, 0, 0, 9}) + std::string(12, '\0'), 9},
      {0, Bytes({2, 0, 0, 0}), 0},
      {108, Bytes({0, 0, 0, 2}), 0},
  };
  for (const auto& [link, header, iif] : kCases) {
    const Read read = ReadAll(Pcap(link, header + ip));
    ASSERT_TRUE(read.status.ok()) << link << ": " << read.status;
    ASSERT_EQ(read.packets.size(), 1u) << link;
    EXPECT_EQ(read.bytes[0], datagram) << link;
    EXPECT_EQ(read.packets[0].true_length, datagram.size());
    EXPECT_EQ(read.packets[0].iif, iif);
    EXPECT_EQ(read.packets[0].time_ns, 12'000'034'000);
    // Cut anywhere in its link header: passed over.
    for (size_t cut = 0; cut < header.size(); ++cut) {
      const Read less = ReadAll(Pcap(link, (header + ip).substr(0, cut)));
      EXPECT_EQ(less.packets.size(), 0u) << link << " cut to " << cut;
      EXPECT_EQ(less.skipped, 1u);
    }
  }
}

TEST(Capture, NotIpIsPassedOver) {
  const std::string arp = std::string(12, '\1') + Bytes({0x08, 0x06}) + std::string(28, '\0');
  const Read read = ReadAll(Pcap(1, arp));
  EXPECT_TRUE(read.status.ok());
  EXPECT_EQ(read.packets.size(), 0u);
  EXPECT_EQ(read.skipped, 1u);
}

TEST(Capture, OtherLinkTypesAreRefused) {
  const Read read = ReadAll(Pcap(127, "x"));  // 802.11 with radiotap
  EXPECT_EQ(read.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(read.status.message().find("link type"), absl::string_view::npos);
  EXPECT_FALSE(ReadAll("no capture at all").status.ok());
}

TEST(Capture, DamagedFilesEndSomewhere) {
  const std::string whole = Pcapng(Datagram());
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string file = whole.substr(0, 1 + random() % 2000);
    for (int n = 0; n < 4; ++n) file[random() % file.size()] = static_cast<char>(random());
    EXPECT_LE(ReadAll(file).packets.size(), 4u);
  }
}

TEST(Nflog, MalformedIsRefused) {
  const std::vector<uint8_t> datagram = Datagram();
  const std::vector<uint8_t> whole = WriteNflog({.family = AF_INET,
                                                 .group = 1,
                                                 .mark = 1,
                                                 .indev = 2,
                                                 .arrived_ns = 0,
                                                 .sequence = std::nullopt,
                                                 .prefix = "p",
                                                 .payload = datagram});
  NflogPacket packet;
  ASSERT_TRUE(ReadNflog(whole, &packet));
  EXPECT_EQ(std::vector<uint8_t>(packet.payload.begin(), packet.payload.end()), datagram);
  for (size_t cut = 0; cut + datagram.size() < whole.size(); ++cut) {
    EXPECT_FALSE(ReadNflog(absl::MakeConstSpan(whole).subspan(0, cut), &packet)) << cut;
  }
  std::vector<uint8_t> short_attribute = whole;
  short_attribute[4] = 3;  // shorter than its own header
  EXPECT_FALSE(ReadNflog(short_attribute, &packet));
  std::vector<uint8_t> version = whole;
  version[1] = 1;
  EXPECT_FALSE(ReadNflog(version, &packet));
}

TEST(Nflog, ClaimedLength) {
  std::vector<uint8_t> bytes = Datagram();
  EXPECT_EQ(ClaimedLength(bytes), bytes.size());
  bytes[2] = 0x05;
  bytes[3] = 0xdc;
  EXPECT_EQ(ClaimedLength(bytes), 1500u);
  EXPECT_EQ(ClaimedLength(absl::MakeConstSpan(bytes).subspan(0, 19)), 19u);
  std::vector<uint8_t> v6(40, 0);
  v6[0] = 0x60;
  v6[5] = 8;
  EXPECT_EQ(ClaimedLength(v6), 48u);
  EXPECT_EQ(ClaimedLength({}), 0u);
}

}  // namespace
}  // namespace utproxy
