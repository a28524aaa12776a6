"""What a disk holds when the power goes: rebuilt from a trace of a program's system calls.

A write is on the disk once its file was synced after it, a name once its directory was: nothing
else is promised by POSIX, and some file system has taken each of these liberties. Before that a
write may be there or not, in any order with others, and torn at the end of a page; the names of a
directory come in order.
"""

import os
import re
import shutil

PAGE = 4096

CALLS = (
    "open openat creat close dup dup2 dup3 fcntl lseek read pread64 "
    "write pwrite64 writev pwritev pwritev2 "
    "fsync fdatasync sync syncfs sync_file_range ftruncate truncate fallocate "
    "rename renameat renameat2 unlink unlinkat link linkat symlink symlinkat "
    "mkdir mkdirat rmdir chdir mmap copy_file_range sendfile splice"
)
FAST = "--seccomp-bpf"  # for strace: the calls that are not traced cost nothing
OPTIONS = ["-f", "-ttt", "-xx", "-s", "100000000", "-e", "signal=none"]
OPTIONS += ["-e", "trace=" + ",".join("?" + call for call in CALLS.split())]

LINE = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)$", re.S)
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


class Untold(Exception):
    """The trace has something in it that this file knows nothing about."""


def calls(path):
    """The calls of a trace as they ended: (pid, time, began, name, args, result, injected);
    `began` is how many had ended when it began."""
    open_calls, ended = {}, 0
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            match = LINE.match(line.rstrip("\n"))
            if not match:
                continue
            pid, at, text = int(match[1]), float(match[2]), match[3]
            if text.endswith("<unfinished ...>"):
                open_calls[pid] = (text[: -len("<unfinished ...>")].rstrip(), ended)
                continue
            began = ended
            resumed = re.match(r"^<\.\.\. \w+ resumed>", text)
            if resumed:
                head, began = open_calls.pop(pid, ("", ended))
                text = head + text[resumed.end() :]
            call = CALL.match(text)
            if not call or call[3] == "?":
                continue
            ended += 1
            yield pid, at, began, call[1], call[2], int(call[3], 0), "(INJECTED)" in call[4]


def string(text):
    return bytes.fromhex(text.replace("\\x", ""))


def split(args):
    """The arguments of a call. Strings are hexadecimal, so there is no comma in them."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(args):
        if c in "[{(":
            depth += 1
        elif c in "]})":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(args[start:i].strip())
            start = i + 1
    parts.append(args[start:].strip())
    return parts


class File:
    def __init__(self, data=b""):
        self.live = bytearray(data)
        self.durable = bytes(data)
        self.pending = []  # (when, offset, bytes) and (when, size): not synced


class Directory:
    def __init__(self):
        self.live = {}
        self.durable = {}
        self.pending = []  # (when, {name: node or None}): not synced


class Handle:
    """An open file description, which descriptors made by dup share."""

    def __init__(self, node, append):
        self.node, self.append, self.offset = node, append, 0


def truncated(data, size):
    return data[:size] + bytes(max(0, size - len(data)))


def written(data, offset, piece):
    data = bytearray(truncated(data, max(len(data), offset)))
    data[offset : offset + len(piece)] = piece
    return bytes(data)


class Disk:
    """The directory `root`, from what it is now on."""

    def __init__(self, root):
        self.root = os.path.realpath(root)
        self.directory = self.root
        self.tree = self._load(self.root)
        self.handles = {}
        self.now = 0  # calls so far
        self.base = 0  # those of earlier processes

    def _load(self, path):
        node = Directory()
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                node.live[entry.name] = self._load(entry.path)
            elif entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file:
                    node.live[entry.name] = File(file.read())
        node.durable = dict(node.live)
        return node

    # Names

    def _place(self, path):
        """The directory and name of a path; None when it is not in the tree."""
        path = os.path.normpath(os.path.join(self.directory, os.fsdecode(path)))
        if path != self.root and not path.startswith(self.root + "/"):
            return None
        node, names = self.tree, os.path.relpath(path, self.root).split("/")
        for name in names[:-1]:
            node = node.live.get(name)
            if not isinstance(node, Directory):
                raise Untold(f"no directory {path}")
        return node, names[-1]

    def _find(self, path):
        place = self._place(path)
        if not place:
            return None
        node, name = place
        return node if name == "." else node.live.get(name)

    def _rename(self, node, names):
        for name, target in names.items():
            if target is None:
                node.live.pop(name, None)
            else:
                node.live[name] = target
        node.pending.append((self.now, names))

    # Calls

    def begin(self):
        """Another process: what it does is another trace, and nothing is open."""
        self.handles, self.base, self.directory = {}, self.now, self.root

    def apply(self, call):
        """Takes a call that ended. Returns whether it changed the disk or what of it is safe."""
        _, _, began, name, args, result, injected = call
        self.now += 1
        if result < 0 or (injected and result == 0):
            return False
        method = getattr(self, "on_" + name, None)
        if not method:
            raise Untold(f"{name}({args[:200]})")
        return bool(method(split(args), result, self.base + began))

    def _path(self, args, at):
        """The path that is argument `at`, behind its directory's descriptor."""
        if args[at - 1] != "AT_FDCWD" and not string_of(args[at]).startswith(b"/"):
            raise Untold(f"a name below a descriptor: {args}")
        return string_of(args[at])

    def _opened(self, path, flags, fd):
        self.handles.pop(fd, None)
        place = self._place(path)
        if not place:
            return False
        node, name = place
        target = node if name == "." else node.live.get(name)
        if "O_TMPFILE" in flags:
            raise Untold("O_TMPFILE")
        changed = False
        if target is None:
            if "O_CREAT" not in flags:
                raise Untold(f"{path} was opened and is not known")
            target = File()
            self._rename(node, {name: target})
            changed = True
        elif "O_TRUNC" in flags and isinstance(target, File):
            changed = self._cut(target, 0)
        self.handles[fd] = Handle(target, "O_APPEND" in flags)
        return changed

    def on_openat(self, args, fd, _):
        return self._opened(self._path(args, 1), args[2], fd)

    def on_open(self, args, fd, _):
        return self._opened(string_of(args[0]), args[1], fd)

    def on_creat(self, args, fd, _):
        return self._opened(string_of(args[0]), "O_CREAT|O_TRUNC", fd)

    def on_close(self, args, *_):
        self.handles.pop(int(args[0]), None)

    def _copied(self, args, fd, _):
        handle = self.handles.get(int(args[0]))
        self.handles.pop(fd, None)
        if handle:
            self.handles[fd] = handle

    on_dup = on_dup2 = on_dup3 = _copied

    def on_fcntl(self, args, result, _):
        if args[1].startswith("F_DUPFD"):
            self._copied(args, result, _)

    def on_lseek(self, args, result, _):
        handle = self.handles.get(int(args[0]))
        if handle:
            handle.offset = result

    def on_read(self, args, result, _):
        handle = self.handles.get(int(args[0]))
        if handle:
            handle.offset += result

    def on_pread64(self, *_):
        """It moves nothing."""

    def _put(self, node, offset, data):
        node.live[:] = written(node.live, offset, data)
        node.pending.append((self.now, offset, bytes(data)))
        return True

    def _cut(self, node, size):
        if size == len(node.live):
            return False
        node.live[:] = truncated(node.live, size)
        node.pending.append((self.now, size))
        return True

    def on_write(self, args, result, _):
        handle = self.handles.get(int(args[0]))
        if not handle:
            return False
        data = string_of(args[1])[:result]
        if handle.append:
            handle.offset = len(handle.node.live)
        self._put(handle.node, handle.offset, data)
        handle.offset += len(data)
        return True

    def on_writev(self, args, result, _):
        data = b"".join(string(match[1]) for match in STRING.finditer(args[1]))
        return self.on_write([args[0], quoted(data)], result, _)

    def on_pwrite64(self, args, result, _):
        handle = self.handles.get(int(args[0]))
        return bool(handle) and self._put(
            handle.node, int(args[3]), string_of(args[1])[:result]
        )

    def on_ftruncate(self, args, *_):
        handle = self.handles.get(int(args[0]))
        return bool(handle) and self._cut(handle.node, int(args[1]))

    def on_truncate(self, args, *_):
        node = self._find(string_of(args[0]))
        return bool(node) and self._cut(node, int(args[1]))

    def on_fallocate(self, args, *_):
        handle = self.handles.get(int(args[0]))
        if not handle:
            return False
        if args[1] != "0":
            raise Untold(f"fallocate({args})")
        return self._cut(handle.node, max(len(handle.node.live), int(args[2]) + int(args[3])))

    def on_fsync(self, args, _, began):
        handle = self.handles.get(int(args[0]))
        if not handle:
            return False
        self._settle(handle.node, began)
        return True

    on_fdatasync = on_fsync

    def _settle(self, node, until):
        """What was done before the sync began is on the disk now."""
        done = [entry for entry in node.pending if entry[0] <= until]
        node.pending = [entry for entry in node.pending if entry[0] > until]
        node.durable = outcome(node, done)

    def _rename_call(self, old, new):
        source, target = self._place(old), self._place(new)
        if not source and not target:
            return False
        if not source or not target or source[0] is not target[0]:
            raise Untold(f"a rename from {old} to {new}")
        node = source[0].live[source[1]]
        self._rename(source[0], {source[1]: None, target[1]: node})
        return True

    def on_rename(self, args, *_):
        return self._rename_call(string_of(args[0]), string_of(args[1]))

    def on_renameat(self, args, *_):
        return self._rename_call(self._path(args, 1), self._path(args, 3))

    def on_renameat2(self, args, *_):
        if args[4] not in ("0", "RENAME_NOREPLACE"):
            raise Untold(f"renameat2({args})")
        return self.on_renameat(args)

    def on_unlink(self, args, *_):
        return self._gone(string_of(args[0]))

    def on_unlinkat(self, args, *_):
        return self._gone(self._path(args, 1))

    on_rmdir = on_unlink

    def _gone(self, path):
        place = self._place(path)
        if place:
            self._rename(place[0], {place[1]: None})
        return bool(place)

    def on_link(self, args, *_):
        return self._linked(string_of(args[0]), string_of(args[1]))

    def on_linkat(self, args, *_):
        return self._linked(self._path(args, 1), self._path(args, 3))

    def _linked(self, old, new):
        source, target = self._find(old), self._place(new)
        if not source and not target:
            return False
        if not source or not target:
            raise Untold(f"a link from {old} to {new}")
        self._rename(target[0], {target[1]: source})
        return True

    def on_mkdir(self, args, *_):
        return self._made(string_of(args[0]))

    def on_mkdirat(self, args, *_):
        return self._made(self._path(args, 1))

    def _made(self, path):
        place = self._place(path)
        if place:
            self._rename(place[0], {place[1]: Directory()})
        return bool(place)

    def on_chdir(self, args, *_):
        self.directory = os.path.normpath(
            os.path.join(self.directory, os.fsdecode(string_of(args[0])))
        )

    def on_mmap(self, args, *_):
        if "PROT_WRITE" not in args[2] or "MAP_SHARED" not in args[3] or args[4] == "-1":
            return
        handle = self.handles.get(int(args[4]))
        if handle and not self.path_of(handle.node).endswith("-shm"):
            raise Untold(f"{self.path_of(handle.node)} is written through memory")

    def path_of(self, node):
        """Where a file is now; "" when it has no name."""
        return next((path for path, other in walk(self.tree, "live") if other is node), "")

    def _foreign(self, args, *_):
        """Calls that must not touch the tree."""
        for arg in args:
            if arg.isdigit() and int(arg) in self.handles:
                raise Untold(str(args))

    on_pwritev = on_pwritev2 = on_sync_file_range = on_copy_file_range = _foreign
    on_sendfile = on_splice = on_symlink = on_symlinkat = on_sync = on_syncfs = _foreign

    # What is there

    def lives(self):
        """{path: bytes} as the running system sees it; None for a directory."""
        return contents(self.tree, "live")

    def survives(self, chance=None):
        """{path: bytes} after the power went: what was synced alone; with `chance`, a
        random.Random, some of what was not as well."""
        return contents(survivor(self.tree, chance, {}), "live")


def string_of(arg):
    match = STRING.fullmatch(arg)
    if not match or match[2]:
        raise Untold(f"not a whole string: {arg[:80]}")
    return string(match[1])


def quoted(data):
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def outcome(node, entries):
    """What becomes of a node's durable part when these entries reach the disk, too."""
    if isinstance(node, Directory):
        names = dict(node.durable)
        for _, change in entries:
            for name, target in change.items():
                if target is None:
                    names.pop(name, None)
                else:
                    names[name] = target
        return names
    data = node.durable
    for entry in entries:
        data = truncated(data, entry[1]) if len(entry) == 2 else written(data, *entry[1:])
    return data


def torn(entry, chance):
    """A write of which only some pages arrived."""
    _, offset, data = entry
    pieces, at = [], 0
    while at < len(data):
        size = min(PAGE - (offset + at) % PAGE, len(data) - at)
        if chance.random() < 0.5:
            pieces.append((0, offset + at, data[at : at + size]))
        at += size
    return pieces


def some(node, chance):
    if not chance:
        return []
    if isinstance(node, Directory):
        return node.pending[: chance.randrange(len(node.pending) + 1)]
    entries, kind = [], chance.randrange(3)  # none, all of them, or some in part
    for entry in node.pending if kind else []:
        if kind == 1:
            entries.append(entry)
        elif len(entry) == 2:
            entries += [entry] * chance.randrange(2)
        else:
            entries += torn(entry, chance)
    return entries


def survivor(node, chance, known):
    """A copy of the node with what survives of it as `live`."""
    if id(node) in known:
        return known[id(node)]
    copy = known[id(node)] = Directory() if isinstance(node, Directory) else File()
    copy.live = outcome(node, some(node, chance))
    if isinstance(node, Directory):
        copy.live = {
            name: survivor(child, chance, known)
            for name, child in copy.live.items()
            if not name.endswith("-shm")  # memory of running processes
        }
    return copy


def walk(tree, of, prefix=""):
    for name, node in sorted(getattr(tree, of).items()):
        yield prefix + name, node
        if isinstance(node, Directory):
            yield from walk(node, of, prefix + name + "/")


def contents(tree, of):
    return {
        path: None if isinstance(node, Directory) else bytes(getattr(node, of))
        for path, node in walk(tree, of)
    }


def restore(directory, files):
    """Makes a directory what `survives` told."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=0o700)
    for path, data in files.items():
        path = os.path.join(directory, path)
        if data is None:
            os.makedirs(path, mode=0o700, exist_ok=True)
        else:
            with open(path, "wb") as file:
                os.chmod(path, 0o600)
                file.write(data)
