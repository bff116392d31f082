"""Limits of a worker process that reads a video of unknown origin: memory, time, files, network and other processes.

A process restricts itself before it opens the video, and cannot take the limits back:

- *files*: Landlock lets it read the video and the installed code, and write nothing;
- *system calls*: a seccomp filter refuses sockets, new processes, signals to and memory of other processes, changes of
  owners, modes, times and attributes of files, mounts, new namespaces, kernel modules, BPF, io_uring and the like;
- *memory*: its address space may grow by `memory` bytes, and it may hold few files open;
- *time*: a job may take `seconds`; the process that waits for it ends it then.

Not covered: what it may find out by reading the installed code or the time; the processor's time within `seconds`; a
fault of the kernel itself. `missing` says what this kernel does not enforce.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_LANDLOCK = {"create": 444, "add": 445, "restrict": 446}  # the same numbers on every processor
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many there are, by Landlock's version
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _GET_SECCOMP, _FILTER_MODE = 38, 22, 21, 2
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # system calls of another kind on the same processor
_OPEN_FILES = 64

# Numbers of refused system calls on x86-64 and on 64-bit ARM (None: there is none).
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "tkill": (200, 130), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "setrlimit": (160, 164), "shmget": (29, 194), "memfd_create": (319, 279),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "truncate": (76, 45), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116), "personality": (135, 92), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
_CONDITIONAL = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}
_PROCESSORS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


@dataclass(frozen=True)
class Sandbox:
    """Limits of a worker process.

    Attributes:
        readable: the video.
        memory: bytes by which its memory may grow.
        seconds: of one job, such as finding the faces of the whole video.
    """

    readable: str
    memory: int = 4 << 30
    seconds: float = 600.0


def missing() -> list[str]:
    """Return which limits this kernel does not enforce, in words; usually none on Linux 5.13 and later."""
    found = []
    if _landlock_version() < 1:
        found.append("which files it reads and writes (this kernel has no Landlock)")
    if platform.machine() not in _PROCESSORS or sys.platform != "linux" or _libc().prctl(_GET_SECCOMP, 0, 0, 0, 0) < 0:
        found.append("its network and other system calls (there is no seccomp filter for this system)")
    return found


def restrict(sandbox: Sandbox) -> None:
    """Restrict this process for good.

    Raises:
        OSError: The kernel refuses a limit that it has.
    """
    status = Path("/proc/self/statm")
    size = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 1 << 30
    limits = {resource.RLIMIT_AS: size + sandbox.memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: _OPEN_FILES}
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    if _landlock_version() >= 1 or platform.machine() in _PROCESSORS:
        _check(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if _landlock_version() >= 1:
        _restrict_files(sandbox)
    if platform.machine() in _PROCESSORS and _libc().prctl(_GET_SECCOMP, 0, 0, 0, 0) >= 0:
        _restrict_system_calls()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _landlock_version() -> int:
    """Return the version of Landlock; below 1 where there is none."""
    return _libc().syscall(_LANDLOCK["create"], None, 0, 1) if sys.platform == "linux" else 0


def _restrict_files(sandbox: Sandbox) -> None:
    libc, version = _libc(), _landlock_version()
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network, scopes = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("QQQ", files, network, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _check(libc.syscall(_LANDLOCK["create"], attributes, ctypes.c_size_t(len(attributes)), 0))
    package = Path(__file__).parents[1]
    code = {*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(package)}
    code |= {f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"}
    code |= {"/dev/null", "/dev/urandom", "/sys/devices/system/cpu", f"/proc/{os.getpid()}"}
    for path in (*sorted(code), sandbox.readable):
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # it is not there, and so not read either
        rights = _READ_FILE | (_READ_DIRECTORY if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, handle)
        _check(libc.syscall(_LANDLOCK["add"], ruleset, 1, rule, 0))
        os.close(handle)
    _check(libc.syscall(_LANDLOCK["restrict"], ruleset, 0))
    os.close(ruleset)


def _restrict_system_calls() -> None:
    architecture, column = _PROCESSORS[platform.machine()]
    load, equal, at_least, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06

    def argument(number: int) -> int:
        return 16 + 8 * number  # its lower half, on these little-endian processors

    def number_of(name: str) -> int | None:
        return _CONDITIONAL[name][column]

    program = [
        (load, 0, 0, 4),  # architecture
        (equal, 1, 0, architecture),
        (end, 0, 0, _KILL),
        (load, 0, 0, 0),  # number of the system call
    ]
    if column == 0:
        program += [(at_least, 0, 1, _X32), (end, 0, 0, _ERROR | _EPERM)]
    for numbers in _REFUSED.values():
        if numbers[column] is not None:
            program += [(equal, 0, 1, numbers[column]), (end, 0, 0, _ERROR | _EPERM)]
    # Its arguments cannot be looked at; without it the C library calls `clone`, whose arguments can.
    program += [(equal, 0, 1, number_of("clone3")), (end, 0, 0, _ERROR | _ENOSYS)]
    # Threads, and no processes.
    program += [(equal, 0, 4, number_of("clone")), (load, 0, 0, argument(0)), (any_bit, 1, 0, _CLONE_THREAD)]
    program += [(end, 0, 0, _ERROR | _EPERM), (end, 0, 0, _ALLOW)]
    # Signals to itself alone, as of abort().
    for name in ("kill", "tgkill"):
        program += [(equal, 0, 4, number_of(name)), (load, 0, 0, argument(0)), (equal, 1, 0, os.getpid())]
        program += [(end, 0, 0, _ERROR | _EPERM), (end, 0, 0, _ALLOW)]
    # Limits can be read and not set; their pointer is two halves.
    program += [(equal, 0, 5, number_of("prlimit64")), (load, 0, 0, argument(2)), (equal, 0, 2, 0)]
    program += [(load, 0, 0, argument(2) + 4), (equal, 1, 0, 0), (end, 0, 0, _ERROR | _EPERM)]
    program += [(end, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    _check(_libc().prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.c_char_p(header), 0, 0))
