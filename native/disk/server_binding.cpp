// Binding of the NBD server.
#include <Python.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <malloc.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/buffers.hpp"
#include "chain_kernel.hpp"
#include "nbd/server.hpp"

namespace hatchway {

namespace {

// An object of Python whose methods return 0 or an error's number; ``read`` may return bytes.
class PythonBackend : public nbd::Backend {
  public:
    explicit PythonBackend(nb::object self) : self_(std::move(self)) {}

    int read(std::uint64_t offset, std::uint32_t size, char *target) override {
        return guarded([&] {
            nb::object found = self_.attr("read")(offset, size);
            if (!nb::isinstance<nb::bytes>(found)) return nb::cast<int>(found);
            const auto bytes = nb::cast<nb::bytes>(found);
            if (bytes.size() != size) return EIO;
            std::memcpy(target, bytes.c_str(), size);
            return 0;
        });
    }
    int load(std::uint64_t rank) override {
        return guarded([&] { return nb::cast<int>(self_.attr("load")(rank)); });
    }
    int write(std::uint64_t offset, const char *data, std::uint32_t size, bool fua) override {
        return guarded([&] {
            // A view of memory that is gone after the call, as the method's documentation says.
            const auto view = nb::steal<nb::object>(
                PyMemoryView_FromMemory(const_cast<char *>(data), size, PyBUF_READ));
            if (!view.is_valid()) throw nb::python_error();
            return nb::cast<int>(self_.attr("write")(offset, view, fua));
        });
    }
    int write_zeroes(std::uint64_t offset, std::uint32_t size, bool may_unmap,
                     bool fua) override {
        return guarded([&] {
            return nb::cast<int>(self_.attr("write_zeroes")(offset, size, may_unmap, fua));
        });
    }
    int discard(std::uint64_t offset, std::uint32_t size, bool fua) override {
        return guarded([&] { return nb::cast<int>(self_.attr("discard")(offset, size, fua)); });
    }
    int flush() override {
        return guarded([&] { return nb::cast<int>(self_.attr("flush")()); });
    }

  private:
    template <class Call>
    static int guarded(Call call) {
        const nb::gil_scoped_acquire held;
        try {
            return call();
        } catch (nb::python_error &error) {
            error.discard_as_unraisable("the NBD server");
        } catch (const nb::cast_error &) {
        }
        return EIO;
    }

    nb::object self_;
};

[[noreturn]] void throw_errno() {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
}

int listen_at(nb::bytes path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) throw nb::value_error("path is too long");
    std::memcpy(address.sun_path, path.c_str(), path.size());
    nbd::Descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // The mode that the name will have: Linux takes it from the socket.
    if (fd.get() < 0 || fchmod(fd.get(), 0600) < 0 ||
        bind(fd.get(), reinterpret_cast<const sockaddr *>(&address), sizeof address) < 0 ||
        listen(fd.get(), SOMAXCONN) < 0)
        throw_errno();
    return fd.release();
}

using ExportTuple = nb::typed<nb::tuple, nb::str, ChainKernel, nb::any, bool>;
using Counts = nb::typed<nb::dict, nb::str, int>;

class NbdServer {
  public:
    NbdServer(nb::typed<nb::list, ExportTuple> exports, std::size_t num_threads,
              std::size_t most_connections, std::size_t most_bytes, double patience_s) {
        nbd::Exports offered;
        for (nb::handle one : exports) {
            const auto fields = nb::cast<nb::tuple>(one);
            kept_.push_back(nb::borrow(fields[1]));
            backends_.push_back(std::make_unique<PythonBackend>(nb::borrow(fields[2])));
            // Not make_unique: compilers from before 2023 know no aggregates in parentheses.
            offered.emplace_back(new nbd::Export{
                nb::cast<std::string>(fields[0]), nb::cast<bool>(fields[3]),
                nb::cast<ChainKernel &>(fields[1]).chain(), *backends_.back()});
        }
        nbd::RoomLimits limits;
        limits.shared_bytes = most_bytes;
        limits.patience = std::chrono::milliseconds(static_cast<std::int64_t>(patience_s * 1e3));
        server_ = std::make_unique<nbd::Server>(std::move(offered), num_threads, most_connections,
                                                limits);
    }
    ~NbdServer() {
        if (getpid() != pid_) {
            (void)server_.release();  // a fork has none of its threads
            return;
        }
        const nb::gil_scoped_release released;
        server_.reset();
    }

    void start(const std::vector<int> &listening) { server_->start(listening); }
    void stop(double patience_s) {
        const nb::gil_scoped_release released;
        server_->stop(patience_s);
    }
    Counts statistics() {
        const nbd::Statistics &all = server_->statistics();
        nb::dict counts;
        counts["num_clients"] = server_->num_clients();
        counts["num_connections"] = all.num_connections.load();
        counts["num_refused"] = all.num_refused.load();
        counts["num_requests"] = all.num_requests.load();
        counts["num_handed_on"] = all.num_handed_on.load();
        counts["read_bytes"] = all.read_bytes.load();
        counts["written_bytes"] = all.written_bytes.load();
        return Counts(counts);
    }

  private:
    pid_t pid_ = getpid();
    std::vector<nb::object> kept_;
    std::vector<std::unique_ptr<PythonBackend>> backends_;
    std::unique_ptr<nbd::Server> server_;
};

}  // namespace

void bind_server(nb::module_ &m) {
    m.def("listen_at", &listen_at, nb::arg("path"),
          "The descriptor of a new socket that listens at a name in the file system, which this "
          "user only may use.");
    m.def("share_arena", [] { mallopt(M_ARENA_MAX, 1); },
          "Have threads that are started from now on take small memory from where others do.");
    nb::class_<NbdServer>(m, "NbdServer", "Serves chains over NBD; see native/disk/nbd/server.hpp.")
        .def(nb::init<nb::typed<nb::list, ExportTuple>, std::size_t, std::size_t, std::size_t,
                      double>(),
             nb::arg("exports"), nb::kw_only(), nb::arg("num_threads"),
             nb::arg("most_connections"), nb::arg("most_bytes"), nb::arg("patience_s"),
             "Exports are (name, kernel, backend, read_only); see Backend in nbd/exports.hpp.")
        .def("start", &NbdServer::start, nb::arg("listening"),
             "Take clients from sockets that listen, which stay the caller's.")
        .def("stop", &NbdServer::stop, nb::arg("patience_s"),
             "Answer what has come, and end; within so many seconds.")
        .def("statistics", &NbdServer::statistics, "What was done until now.");
}

}  // namespace hatchway
