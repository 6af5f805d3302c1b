// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/codec.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "messages.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

// Decodes a copy of exactly this size, so that AddressSanitizer sees a read beyond it.
std::vector<Message> DecodeAll(const Bytes& bytes) {
  static std::vector<Bytes> kept;  // payloads are views
  kept.push_back(Bytes(bytes.begin(), bytes.end()));
  kept.back().shrink_to_fit();
  absl::Span<const uint8_t> rest(kept.back());
  std::vector<Message> messages;
  Message message;
  size_t before = rest.size();
  while (NextMessage(&rest, &message)) {
    EXPECT_LT(rest.size(), before);
    before = rest.size();
    messages.push_back(message);
  }
  return messages;
}

Bytes FullMessage() {
  return MessageBytes()
      .Nfgen()
      .PacketHeader(0x01020304, 2)
      .Attr32(NFQA_IFINDEX_INDEV, 7)
      .Attr32(NFQA_IFINDEX_PHYSINDEV, 9)
      .Attr32(NFQA_MARK, 0xdeadbeef)
      .Attr32(NFQA_SKB_INFO, NFQA_SKB_GSO)
      .Attr32(NFQA_CAP_LEN, 1500)
      .Timestamp(1'700'000'000, 123'456)
      .Payload("payload")
      .Finish();
}

TEST(Codec, ReadsEveryField) {
  const auto messages = DecodeAll(FullMessage());
  ASSERT_EQ(messages.size(), 1u);
  ASSERT_EQ(messages[0].kind, Message::Kind::kPacket);
  const PacketMessage& packet = messages[0].packet;
  EXPECT_EQ(packet.id, 0x01020304u);
  EXPECT_EQ(packet.hook, 2);
  EXPECT_EQ(packet.indev, 7u);
  EXPECT_EQ(packet.physindev, 9u);
  EXPECT_EQ(packet.mark, 0xdeadbeefu);
  EXPECT_EQ(packet.true_length, 1500u);
  EXPECT_EQ(packet.arrived_ns, 1'700'000'000'123'456'000);
  EXPECT_FALSE(packet.damaged);
  EXPECT_EQ(std::string(packet.payload.begin(), packet.payload.end()), "payload");
}

TEST(Codec, AbsentFieldsAreZeroAndTheLengthIsThePayloads) {
  const auto messages = DecodeAll(MessageBytes().Nfgen().PacketHeader(5).Payload("abc").Finish());
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].packet.indev, 0u);
  EXPECT_EQ(messages[0].packet.mark, 0u);
  EXPECT_EQ(messages[0].packet.true_length, 3u);
  EXPECT_EQ(messages[0].packet.arrived_ns, 0);
}

TEST(Codec, ATimestampThatIsNoTimeIsNone) {
  const auto arrived = [](uint64_t seconds, uint64_t microseconds) {
    const auto messages = DecodeAll(MessageBytes()
                                        .Nfgen()
                                        .PacketHeader(5)
                                        .Timestamp(seconds, microseconds)
                                        .Payload("abc")
                                        .Finish());
    EXPECT_FALSE(messages.at(0).packet.damaged);
    return messages.at(0).packet.arrived_ns;
  };
  EXPECT_EQ(arrived(0, 1), 1000);
  EXPECT_EQ(arrived(1, 999'999), 1'999'999'000);
  EXPECT_EQ(arrived(1, 1'000'000), 0);
  EXPECT_EQ(arrived(9'223'372'036, 0), 0);
  EXPECT_EQ(arrived(9'223'372'035, 0), 9'223'372'035'000'000'000);
  EXPECT_EQ(arrived(UINT64_MAX, UINT64_MAX), 0);
  const auto cut =
      DecodeAll(MessageBytes().Nfgen().PacketHeader(5).Attr(NFQA_TIMESTAMP, "1234567", 8).Finish());
  EXPECT_TRUE(cut.at(0).packet.damaged);
  EXPECT_EQ(cut.at(0).packet.arrived_ns, 0);
}

TEST(Codec, NothingOfOneMessageIsLeftInTheNext) {
  Bytes both = FullMessage();
  both.push_back(0);  // to the next multiple of four
  const Bytes second = MessageBytes().Nfgen().PacketHeader(6).Payload("x").Finish();
  both.insert(both.end(), second.begin(), second.end());
  const auto messages = DecodeAll(both);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].packet.id, 6u);
  EXPECT_EQ(messages[1].packet.mark, 0u);
  EXPECT_EQ(messages[1].packet.true_length, 1u);
}

TEST(Codec, AMessageCutAnywhereKeepsItsIdOrIsMalformed) {
  const Bytes whole = FullMessage();
  const size_t id_end = sizeof(nlmsghdr) + sizeof(nfgenmsg) + NLA_HDRLEN + 7;
  for (size_t size = 1; size < whole.size(); ++size) {
    const auto messages = DecodeAll(Bytes(whole.begin(), whole.begin() + size));
    ASSERT_EQ(messages.size(), 1u) << size;
    if (size < id_end) {
      EXPECT_EQ(messages[0].kind, Message::Kind::kMalformed) << size;
      continue;
    }
    ASSERT_EQ(messages[0].kind, Message::Kind::kPacket) << size;
    EXPECT_EQ(messages[0].packet.id, 0x01020304u) << size;
    EXPECT_TRUE(messages[0].packet.damaged) << size;
    EXPECT_TRUE(messages[0].packet.payload.empty()) << size;
  }
}

TEST(Codec, AttributesThatLieAreDamage) {
  const uint16_t one = 1;
  const auto short_mark =
      DecodeAll(MessageBytes().Nfgen().PacketHeader(5).Attr(NFQA_MARK, &one, 2).Finish());
  ASSERT_EQ(short_mark.size(), 1u);
  EXPECT_TRUE(short_mark[0].packet.damaged);

  for (const uint16_t length : {uint16_t{0}, uint16_t{3}, uint16_t{9}, uint16_t{0xffff}}) {
    nlattr attr{};
    attr.nla_len = length;
    attr.nla_type = NFQA_PAYLOAD;
    const auto messages = DecodeAll(MessageBytes()
                                        .Nfgen()
                                        .PacketHeader(5)
                                        .Append(&attr, sizeof attr)
                                        .Append(&attr, 4)
                                        .Finish());
    ASSERT_EQ(messages.size(), 1u) << length;
    EXPECT_TRUE(messages[0].packet.damaged) << length;
    EXPECT_EQ(messages[0].packet.id, 5u);
  }
}

TEST(Codec, WithoutAnIdThereIsNoPacket) {
  const auto messages = DecodeAll(MessageBytes().Nfgen().Payload("abc").Finish());
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].kind, Message::Kind::kMalformed);
}

TEST(Codec, ReadsErrorsAndAcknowledgements) {
  auto messages = DecodeAll(ErrorMessage(-ENOENT, 77));
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].kind, Message::Kind::kError);
  EXPECT_EQ(messages[0].error, ENOENT);
  EXPECT_EQ(messages[0].sequence, 77u);
  EXPECT_EQ(DecodeAll(ErrorMessage(0, 1))[0].error, 0);
  EXPECT_EQ(DecodeAll(ErrorMessage(5, 1))[0].kind, Message::Kind::kMalformed);
  EXPECT_EQ(DecodeAll(ErrorMessage(INT32_MIN, 1))[0].kind, Message::Kind::kMalformed);
  Bytes cut = ErrorMessage(-ENOENT, 77);
  cut.resize(cut.size() - 1);
  EXPECT_EQ(DecodeAll(cut)[0].kind, Message::Kind::kMalformed);
}

TEST(Codec, OtherMessagesArePassedOver) {
  const auto messages = DecodeAll(MessageBytes(NLMSG_DONE).Nfgen().Finish());
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].kind, Message::Kind::kOther);
  EXPECT_TRUE(DecodeAll({}).empty());
}

// Whatever bytes come, the decoder ends, stays inside, and its views lie inside.
TEST(Codec, SurvivesMutations) {
  std::mt19937 random(1);
  const Bytes whole = FullMessage();
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = whole;
    bytes.resize(random() % (whole.size() + 1));
    for (unsigned n = random() % 4; n > 0 && !bytes.empty(); --n) {
      bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    }
    absl::Span<const uint8_t> rest(bytes);
    Message message;
    while (NextMessage(&rest, &message)) {
      const auto& payload = message.packet.payload;
      if (payload.empty()) continue;
      ASSERT_GE(payload.data(), bytes.data());
      ASSERT_LE(payload.data() + payload.size(), bytes.data() + bytes.size());
    }
  }
}

}  // namespace
}  // namespace utproxy
