// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/verdict_buffer.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/linux_nfnetlink_queue.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>

#include <optional>
#include <vector>

namespace utproxy {
namespace {

struct Read {
  uint32_t sequence;
  uint16_t queue;
  uint32_t id;
  uint32_t verdict;
  std::optional<uint32_t> mark;
};

int OnAttribute(const nlattr* attr, void* out) {
  auto* read = static_cast<Read*>(out);
  if (mnl_attr_get_type(attr) == NFQA_VERDICT_HDR) {
    EXPECT_EQ(mnl_attr_get_payload_len(attr), sizeof(nfqnl_msg_verdict_hdr));
    const auto* header = static_cast<const nfqnl_msg_verdict_hdr*>(mnl_attr_get_payload(attr));
    read->verdict = ntohl(header->verdict);
    read->id = ntohl(header->id);
  } else {
    EXPECT_EQ(mnl_attr_get_type(attr), NFQA_MARK);
    read->mark = ntohl(mnl_attr_get_u32(attr));
  }
  return MNL_CB_OK;
}

std::vector<Read> ReadAll(const VerdictBuffer& buffer) {
  std::vector<Read> all;
  int left = static_cast<int>(buffer.bytes().size());
  const auto* nlh = reinterpret_cast<const nlmsghdr*>(buffer.bytes().data());
  for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left)) {
    EXPECT_EQ(nlh->nlmsg_type, (NFNL_SUBSYS_QUEUE << 8) | NFQNL_MSG_VERDICT);
    EXPECT_EQ(nlh->nlmsg_flags, NLM_F_REQUEST);
    const auto* nfg = static_cast<const nfgenmsg*>(mnl_nlmsg_get_payload(nlh));
    Read read{.sequence = nlh->nlmsg_seq,
              .queue = ntohs(nfg->res_id),
              .id = 0,
              .verdict = 99,
              .mark = {}};
    EXPECT_EQ(mnl_attr_parse(nlh, sizeof(nfgenmsg), OnAttribute, &read), MNL_CB_OK);
    all.push_back(read);
  }
  EXPECT_EQ(left, 0);
  return all;
}

TEST(VerdictBuffer, HoldsWhatWasSaid) {
  VerdictBuffer buffer(513);
  EXPECT_TRUE(buffer.empty());
  buffer.Accept(1, 0x80000007);
  buffer.AcceptWithMark(0x80000002, 5, 0xa1b2c3d4);
  buffer.Drop(3, 6);
  buffer.AcceptWithMark(4, 0, 0);
  const std::vector<Read> all = ReadAll(buffer);
  ASSERT_EQ(all.size(), 4u);
  for (const Read& read : all) EXPECT_EQ(read.queue, 513);
  EXPECT_EQ(all[0].id, 1u);
  EXPECT_EQ(all[0].sequence, 0x80000007u);
  EXPECT_EQ(all[1].sequence, 5u);
  EXPECT_EQ(all[2].sequence, 6u);
  EXPECT_EQ(all[0].verdict, static_cast<uint32_t>(NF_ACCEPT));
  EXPECT_FALSE(all[0].mark);
  EXPECT_EQ(all[1].id, 0x80000002u);
  EXPECT_EQ(all[1].mark, 0xa1b2c3d4u);
  EXPECT_EQ(all[2].verdict, static_cast<uint32_t>(NF_DROP));
  EXPECT_FALSE(all[2].mark);
  EXPECT_EQ(all[3].mark, 0u);
}

TEST(VerdictBuffer, HoldsAWholeBatchAndStartsOver) {
  VerdictBuffer buffer(0);
  for (int round = 0; round < 2; ++round) {
    for (uint32_t id = 0; id < kBatch; ++id) {
      ASSERT_FALSE(buffer.full());
      buffer.AcceptWithMark(id, 0, id);
    }
    EXPECT_TRUE(buffer.full());
    const std::vector<Read> all = ReadAll(buffer);
    ASSERT_EQ(all.size(), kBatch);
    for (uint32_t id = 0; id < kBatch; ++id) EXPECT_EQ(all[id].mark, id);
    buffer.Clear();
    EXPECT_TRUE(buffer.empty());
    EXPECT_EQ(buffer.bytes().size(), 0u);
  }
}

}  // namespace
}  // namespace utproxy
