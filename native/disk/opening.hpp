// Opening many files as a chain holds them: regular, no links, locked as QEMU locks what it
// reads. The twins are files.py and locks.py, which also say what is wrong with one.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace hatchway {

constexpr off_t kPermission = 100, kRefused = 200;
constexpr off_t kReadLock = 0, kWriteLock = 1, kResizeLock = 3;

struct OpenedFile {
    int fd;
    std::uint64_t device, inode;
    std::int64_t bytes, modified_ns, changed_ns;
};

inline bool lock_byte(int fd, int command, short type, off_t at, struct flock &lock) {
    lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = at;
    lock.l_len = 1;
    return fcntl(fd, command, &lock) == 0;
}

// Whether the file is locked now, and nobody disagrees.
inline bool lock_to_read(int fd) {
    struct flock lock;
    for (const off_t at : {kPermission + kReadLock, kRefused + kWriteLock, kRefused + kResizeLock})
        if (!lock_byte(fd, F_OFD_SETLK, F_RDLCK, at, lock)) return false;
    for (const off_t at : {kRefused + kReadLock, kPermission + kWriteLock, kPermission + kResizeLock})
        if (!lock_byte(fd, F_OFD_GETLK, F_WRLCK, at, lock) || lock.l_type != F_UNLCK) return false;
    return true;
}

// False where the file is not the common case; nothing is open then.
inline bool open_one(const char *path, bool locks, OpenedFile &file) {
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (file.fd < 0) return false;
    struct stat status;
    if (fstat(file.fd, &status) == 0 && S_ISREG(status.st_mode) &&
        (!locks || lock_to_read(file.fd))) {
        const auto ns = [](const timespec &at) {
            return static_cast<std::int64_t>(at.tv_sec) * 1'000'000'000 + at.tv_nsec;
        };
        file.device = status.st_dev;
        file.inode = status.st_ino;
        file.bytes = status.st_size;
        file.modified_ns = ns(status.st_mtim);
        file.changed_ns = ns(status.st_ctim);
        return true;
    }
    close(file.fd);
    return false;
}

}  // namespace hatchway
