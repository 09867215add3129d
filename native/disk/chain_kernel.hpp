// The chain as Python holds it.
#pragma once

#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "chain.hpp"

namespace hatchway {

namespace nb = nanobind;

// (fd, data_fd, size, limit) of a raw file; of a qcow2 file also (cluster_bits, l1_offset,
// l1_size, has_subclusters, has_data_file, has_zeros).
using LayerTuple = nb::typed<nb::tuple, int, nb::ellipsis>;
using LayerTuples = nb::typed<nb::list, LayerTuple>;
using LeafArrays = nb::typed<nb::tuple, nb::bytes, nb::bytes>;
using NotedPieces = nb::typed<nb::list, nb::typed<nb::tuple, int, nb::bytes>>;
using MaybeBytes = nb::typed<nb::object, std::optional<nb::bytes>>;

std::unique_ptr<Layer> layer_of(const nb::tuple &fields);  // binding.cpp

class ChainKernel {
  public:
    ChainKernel(LayerTuples layers, std::uint64_t size, int granule_bits, std::size_t most_bytes,
                bool may_merge, ChainKernel *twin);

    MaybeBytes read_at(nb::handle offset, nb::handle size);
    bool read_into(nb::handle offset, nb::object buffer);
    bool overwrite(nb::handle offset, nb::object data);
    NotedPieces stop_overwriting();
    bool load(std::uint64_t rank);
    std::optional<LeafArrays> merged(std::uint64_t rank, std::size_t first, std::size_t end);
    std::optional<LeafArrays> leaf(std::uint64_t rank);
    void put(std::uint64_t rank, nb::object words, nb::object layers);
    bool update(std::uint64_t start, nb::bytes entries);
    void resize(std::uint64_t size) {
        const nb::gil_scoped_release released;
        chain_.resize(size);
    }
    void replace_top(LayerTuples top);
    void settle() {
        const nb::gil_scoped_release released;
        chain_.settle();
    }
    void close() {
        const nb::gil_scoped_release released;
        chain_.close();
    }
    Chain &chain() { return chain_; }

  private:
    bool holds(std::int64_t start, std::int64_t count) const {
        const auto size = static_cast<std::int64_t>(chain_.size());
        return start >= 0 && count > 0 && count <= size && start <= size - count;
    }

    Chain chain_;
};

}  // namespace hatchway
