"""A filter of system calls for code that a model wrote: one process, its threads, no network, no kernel interfaces.

The numbers are those of Linux's tables (arch/x86/entry/syscalls/syscall_64.tbl and asm-generic/unistd.h). What is
refused answers EPERM; `clone3` answers ENOSYS, since its flags lie in memory and libraries then use `clone`.
"""

import errno
import platform
import struct

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld abs, jeq, jge, jset, ret
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
CLONE_THREAD = 0x10000
CLONE3 = 435
X32 = 0x40000000  # x86-64 has a second table above this

# io_uring_setup, _enter, _register; open_tree, move_mount, fsopen, fsconfig, fsmount, fspick; pidfd_open, pidfd_getfd;
# mount_setattr; memfd_secret. Since 5.1 new calls have one number everywhere.
ANYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 442, 447)

# In the order: socket, socketpair, ptrace, shmget, msgget, semget, mq_open, pivot_root, chroot, acct, settimeofday,
# clock_settime, mount, umount2, swapon, swapoff, reboot, sethostname, setdomainname, init_module, finit_module,
# delete_module, kexec_load, kexec_file_load, quotactl, add_key, request_key, keyctl, unshare, setns, perf_event_open,
# name_to_handle_at, open_by_handle_at, process_vm_readv, process_vm_writev, kcmp, memfd_create, bpf, execveat,
# userfaultfd, fanotify_init.
X86_64 = (
    41, 53, 101, 29, 68, 64, 240, 155, 161, 163, 164, 227, 165, 166, 167, 168, 169, 170, 171, 175, 313, 176, 246, 320,
    179, 248, 249, 250, 272, 308, 298, 303, 304, 310, 311, 312, 319, 321, 322, 323, 300,
    57, 58, 154, 172, 173,  # fork, vfork, modify_ldt, iopl, ioperm
)  # fmt: skip
AARCH64 = (
    198, 199, 117, 194, 186, 190, 180, 41, 51, 89, 170, 112, 40, 39, 224, 225, 142, 161, 162, 105, 273, 106, 104, 294,
    60, 217, 218, 219, 97, 268, 241, 264, 265, 270, 271, 272, 279, 280, 281, 282, 262,
)  # fmt: skip

# machine → its audit number, the number of `clone`, what is refused
MACHINES = {
    "x86_64": (0xC000003E, 56, X86_64 + ANYWHERE),
    "aarch64": (0xC00000B7, 220, AARCH64 + ANYWHERE),
}


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter. Jumps count instructions to pass over."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def rules(machine: str | None = None) -> bytes | None:
    """The filter as the kernel reads it, None for a machine whose calls are not listed here."""
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    audit, clone, refused = known
    eperm, enosys = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
    program = [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, audit, if_true=1),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
        instruction(AT_LEAST, X32, if_false=1),
        instruction(RETURN, eperm),
        instruction(EQUAL, CLONE3, if_false=1),
        instruction(RETURN, enosys),
    ]
    for number in refused:
        program += [instruction(EQUAL, number, if_false=1), instruction(RETURN, eperm)]
    program += [
        instruction(EQUAL, clone, if_false=3),
        instruction(LOAD, FIRST_ARGUMENT),
        instruction(ANY_BIT, CLONE_THREAD, if_true=1),
        instruction(RETURN, eperm),
        instruction(RETURN, ALLOW),
    ]
    return b"".join(program)
