#!/usr/bin/env python3
"""List the snapshots of an fsmeta store. Needs Linux, Python 3.8 and no other module.

usage: reader.py [--txn] STORE

The store may be closed, live, crashed or damaged. Nothing is written, and no writer waits.
Standard output has one JSON object a line for each snapshot that can be read, in byte order
of the names; with --txn, first {"txn": N}, the transaction at which they were read. Standard
error has one JSON object a line for each part that is damaged, or why there is no listing.

Exit status: 0 all is well; 1 something is damaged; 2 the store can't be listed.

It follows layout.md, and shares nothing with the Go package. Comments name the sections of layout.md.
"""
import collections, errno, fcntl, hashlib, json, os, re, stat, struct, sys, time
from datetime import datetime, timedelta

MAX = 2**63 - 1
MAX_LINE, MAX_FILE, MAX_HEADER, MAX_LAYOUT = 256 << 20, 64 << 20, 4096, 65536  # section 5, JSON
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # section 3, Types
ROUNDS = 100  # how often to begin anew beside a busy writer

class Damage(Exception): """A part breaks a rule."""
class NoDirectory(Damage): """Something else is in place of a snapshot's directory."""
class Unreadable(Exception): """The store can't be listed: the path in it, and why."""
class Again(Exception): """The listing has to begin anew."""

# Section 5, Checksums

CRC_TABLE = list(range(256))
for _ in range(8):
    CRC_TABLE = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in CRC_TABLE]

def crc32c(data):
    crc, table = 0xFFFFFFFF, CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return b"%08x" % (crc ^ 0xFFFFFFFF)

# Section 5, JSON

class Number(str): """A number as it is written."""

def object_of(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
        raise Damage("a member stands twice")
    return result

def no_constant(text):
    raise Damage("%s is no JSON" % text)

DECODER = json.JSONDecoder(object_pairs_hook=object_of, parse_int=Number, parse_float=Number, parse_constant=no_constant)

def check_value(value, depth=1):
    """Rule 1, the depth, and rule 5, halves of surrogate pairs."""
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise Damage("half of a surrogate pair")
    if isinstance(value, (dict, list)):
        if depth > 64:
            raise Damage("nested more than 64 deep")
        for part in value if isinstance(value, list) else [*value, *value.values()]:
            check_value(part, depth + 1)

def parse(raw, known, by_hand):
    """The object that raw holds."""
    try:
        value = DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise Damage("no valid JSON: %s" % err)
    if b"\\u" in raw or raw.count(b"{") + raw.count(b"[") > 64:
        check_value(value)
    return check_members(value, known, by_hand)

def check_members(value, known, by_hand):
    """The table of unknown members."""
    if type(value) is not dict:
        raise Damage("no object")
    if len(set(value) - set(known)) > (0 if by_hand else 1000):
        raise Damage("unknown members: %s" % sorted(set(value) - set(known))[:3])
    return value

def member(value, name, kind, *default):
    found = value.get(name, *default)
    if type(found) is not kind:
        raise Damage('"%s" is missing, or of another type' % name)
    return found

def number(value, name, low=0, default=None):
    text = member(value, name, Number, default)
    if not re.fullmatch("-?[0-9]{1,19}", text) or not low <= int(text) <= MAX or low >= 0 and text[0] == "-":
        raise Damage('"%s" is %s: not in its range' % (name, text[:40]))
    return int(text)

def digits(value, name, count, *default):
    text = member(value, name, str, *default)
    if not re.fullmatch("[0-9a-f]{%d}" % count, text):
        raise Damage('"%s" is not %d hexadecimal digits' % (name, count))
    return text

TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)

def moment(value, name):
    """A time as writers write it. Years are taken modulo 400, as Python knows no year 0."""
    match = TIME.fullmatch(member(value, name, str))
    try:
        year, fraction = int(match[1]), (match[7] or "").rstrip("0")
        when = datetime(2000 + year % 400, *map(int, match.group(2, 3, 4, 5, 6)))
        if match[8]:
            hours, minutes = int(match[9]), int(match[10])
            if hours > 23 or minutes > 59:
                raise ValueError
            when -= timedelta(hours=hours, minutes=minutes) * int(match[8] + "1")
        year += when.year - 2000 - year % 400
        if not 0 <= year <= 9999:
            raise ValueError
    except (TypeError, ValueError):
        raise Damage('"%s" is no time' % name)
    return "%04d%s%sZ" % (year, when.strftime("-%m-%dT%H:%M:%S"), fraction and "." + fraction)

# Section 4, Names

PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+=,-")

def escape(raw):
    text = b"".join(b"%c" % byte if byte in PLAIN else b"%%%02X" % byte for byte in raw)
    return b"%2E" + text[1:] if raw[:1] == b"." else text

def encode(name):
    text = escape(name.encode())
    if len(text) <= 255:
        return text
    return re.sub(rb"%.?\Z", b"", text[:190]) + b"~" + hashlib.sha256(name.encode()).hexdigest().encode()

def unescape(text):
    """The bytes that text is the escaped form of, or None."""
    raw = re.sub(rb"%([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text)
    return raw if escape(raw) == text else None

def decode(entry):
    """(name, share) of an entry; (None, share) where it is hashed; (None, None) where no name encodes to it."""
    hashed = re.fullmatch(rb"(.{188,190})~([0-9a-f]{64})", entry)
    if hashed and unescape(hashed[1]) is not None:
        return None, int(hashed[2][:16], 16)
    try:
        name = (unescape(entry) or b"").decode()
    except UnicodeDecodeError:
        return None, None
    return (name, share(name)) if name and encode(name) == entry else (None, None)

def share(name):
    """What a name adds to the digest of a set of names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

def a_name(value, member_name):
    name = member(value, member_name, str)
    if not 1 <= len(name.encode()) <= 32768:
        raise Damage('"%s" has no byte, or too many' % member_name)
    return name

# Section 5, metadata.json

VERSION = ("id", "parent", "kind", "readonly", "labels", "created", "updated", "usage", "txn")

def version_of(value, name, by_hand=False):
    """What a file or an image says of a snapshot: the rule for what can be stored."""
    identifier = member(value, "id", str)
    if not re.fullmatch("[1-9][0-9]{0,18}", identifier) or int(identifier) > MAX:
        raise Damage('"id" is no identifier')
    parent = member(value, "parent", str, *([""] if by_hand else []))
    if parent and a_name(value, "parent") == name:
        raise Damage("it is its own parent")
    kind = member(value, "kind", str)
    if kind not in ("active", "committed"):
        raise Damage('"kind" is neither active nor committed')
    readonly = member(value, "readonly", bool, False) or kind == "committed"
    labels = member(value, "labels", dict, {})
    for key in labels:
        a_name({"key of a label": key}, "key of a label")
        member(labels, key, str)
    usage = check_members(value.get("usage", {}), ("inodes", "size"), by_hand)
    return {"id": identifier, "parent": parent, "kind": kind, "readonly": readonly,
            "labels": {key: labels[key] for key in sorted(labels, key=str.encode)},
            "created": moment(value, "created"), "updated": moment(value, "updated"),
            "usage": {name: number(usage, name, -MAX - 1, Number(0)) for name in ("inodes", "size")},
            "txn": number(value, "txn", 0, Number(0))}

def metadata(raw):
    """(name, version) that a metadata.json holds."""
    sealed = re.match(rb'\{\n  "crc32c": "[0-9a-f]{8}",\n', raw)
    if sealed and raw[15:23] != crc32c(raw[26:]):
        raise Damage("the checksum is wrong")
    known = VERSION + ("crc32c", "name")
    value = parse(raw, known, False)
    by_hand = "crc32c" not in value
    if not by_hand and not sealed:
        raise Damage("crc32c does not stand where it must")
    name = a_name(check_members(value, known, by_hand), "name")
    return name, version_of(value, name, by_hand)

# Section 5, journal

Line = collections.namedtuple("Line", "txn synced filled count names prev crc raw end published")
FRONT = re.compile(rb'{"txn":N,"time":"[^"]*","nextID":N,"synced":N,"filled":N,"count":N,"names":"([0-9a-f]{16})","changes":\['
                   .replace(b"N", b"(0|[1-9][0-9]{0,18})"))
ENDS = re.compile(rb"\n|\0+")
SEAL = re.compile(rb',"prev":"([0-9a-f]{8})","crc32c":"([0-9a-f]{8})"}')
LINE = ("txn", "time", "nextID", "synced", "filled", "count", "names", "changes", "prev", "crc32c")
HEADER = ("format", "version", "txn", "nextID", "count", "names", "filled", "boot", "prev", "crc32c")

def header_of(raw):
    if len(raw) > MAX_HEADER:
        raise Damage("it has more than %d bytes" % MAX_HEADER)
    value = parse(raw, HEADER, True)
    sealed = "crc32c" in value
    if sealed and (len(value) < 10 or raw[-21:] != b',"crc32c":"' + crc32c(raw[:-21]) + b'"}'):
        raise Damage("its checksum is wrong, or a member is missing")
    if member(value, "format", str) != "fsmeta journal" or number(value, "version") != 2:
        raise Damage("another format or version")
    number(value, "nextID", 1)
    counts = number(value, "count", 0, Number(0)), digits(value, "names", 16, "0" * 16)
    filled = number(value, "filled", 0, Number(0))
    return {"txn": number(value, "txn", 0, Number(0)), "prev": digits(value, "prev", 8, "0" * 8).encode(),
            "boot": member(value, "boot", str, ""), "filled": filled if sealed else 0, "sealed": sealed,
            "counts": counts if "count" in value and "names" in value else None}

def line_of(raw, end, byte):
    """A line with a right checksum, or None."""
    front, seal = FRONT.match(raw), SEAL.fullmatch(raw, max(0, len(raw) - 39))
    if not front or not seal or len(raw) > MAX_LINE or crc32c(raw[:-21]) != seal[2]:
        return None
    txn, next_id, synced, filled, count = map(int, front.groups()[:5])
    if max(txn, next_id, synced, filled, count) > MAX:
        return None
    return Line(txn, synced, filled, count, front[6].decode(), seal[1], seal[2], raw, end, byte == b"\n")

def changes_of(line):
    """[(name, before, after)] of a line. Raises Damage if it is nonsense."""
    value = parse(line.raw, LINE, False)
    number(value, "nextID", 1)
    moment(value, "time")
    changes = []
    for change in member(value, "changes", list):
        name = a_name(check_members(change, ("name", "before", "after"), False), "name")
        if changes and name.encode() <= changes[-1][0].encode():
            raise Damage("its names are not ascending")
        before, after = (image(change.get(which, False), name) for which in ("before", "after"))
        if after and (after["txn"] >= line.txn if before == after else after["txn"] != line.txn):
            raise Damage("an after-image is of another transaction")
        changes.append((name, before, after))
    if len({before == after for _, before, after in changes}) > 1:
        raise Damage("it carries over in some of its changes only")
    return changes

def image(value, name):
    return None if value is None else version_of(check_members(value, VERSION, False), name)

def superseded(txn, prev):
    body = b'{"superseded":%d,"prev":"%s"' % (txn, prev)
    return body + b',"crc32c":"' + crc32c(body) + b'"}'

def complete(raw, prev):
    """Rule 6 of "Torn or damaged"."""
    if SEAL.search(raw):
        return True
    body = raw[:-39] + b',"prev":"' + prev + b'"'
    end = body[-18:] + b',"crc32c":"' + crc32c(body) + b'"}'
    return len(raw) >= 39 and sum(a != b for a, b in zip(end, raw[-39:])) <= 4

class Journal:
    """One journal file and the lines that are known of it: whole ones; where it is damaged, all that count."""

    def __init__(self, fd):
        self.fd, self.lines, self.superseded, self.damage = fd, [], False, None
        if os.pread(fd, 1, 0) in (b"", b"\0", b"\n"):
            raise Unreadable("journal", "it has no header")  # section 7, Opening
        _, raw, byte = next(self.runs(0))
        self.header = {"txn": 0, "boot": "", "counts": None}
        try:
            self.header = header_of(raw)
        except Damage as err:
            return self.give_up("header: %s" % err)
        # The last published line, or the header: its end, transaction, checksum; how long the file must be.
        self.known, filled = 0, len(raw) + 1 if self.header["sealed"] else 0
        self.last = len(raw) + 1, self.header["txn"], self.header["prev"], max(filled, self.header["filled"])
        self.look(whole=True)

    def runs(self, at):
        """(offset, bytes, end byte) up to each newline and NUL byte; b"" at the end of the file. Holes are skipped."""
        part, begin, size = bytearray(), at, 4096
        while True:
            if not part:
                begin = at = self.skip_hole(at)
            chunk, done = os.pread(self.fd, size, at), 0
            for match in ENDS.finditer(chunk) if b"\n" in chunk or b"\0" in chunk else ():
                part += chunk[done:match.start()]
                if part or match[0] == b"\n":
                    yield begin, bytes(part), match[0][:1]
                part, done = bytearray(), match.end()
                begin = at + done
            part += chunk[done:] if len(part) <= MAX_LINE else b""  # it is too long already
            at, size = at + len(chunk), min(4 * size, 1 << 20)
            if not chunk:
                break
        if part:
            yield begin, bytes(part), b""

    def skip_hole(self, at):
        try:
            return os.lseek(self.fd, at, os.SEEK_DATA)
        except OSError as err:
            return max(at, os.fstat(self.fd).st_size) if err.errno == errno.ENXIO else at

    def look(self, whole=False):
        """Takes in what is new. Damage is damage when it is found again at the same transaction."""
        if self.damage or not whole and os.pread(self.fd, 2, self.last[0]) == b"\0\0":
            return
        before = None
        for _ in range(ROUNDS):
            lines, mark, damage = self.examine()
            if not damage or len(lines) == before:
                break
            before = len(lines)
        if damage:
            return self.give_up(damage)
        if [line.crc for line in self.lines[self.known:]] != [line.crc for line in lines[:len(self.lines) - self.known]]:
            raise Again("lines that were read are others now")
        self.lines[self.known:], self.superseded = lines, mark
        for i in range(len(self.lines) - 1, self.known - 1, -1):
            if self.lines[i].published:  # and all before it
                filled = max([self.last[3]] + [max(line.filled, line.end) for line in self.lines[self.known:i + 1]])
                self.known, self.last = i + 1, (self.lines[i].end, self.lines[i].txn, self.lines[i].crc, filled)
                break

    def examine(self):
        """The whole lines behind the last published one, whether the superseded line follows, and the damage."""
        at, txn, prev, filled = self.last
        lines, mark, reading, damage = [], False, True, None
        for offset, raw, byte in self.runs(at):
            line = line_of(raw, offset + len(raw) + 1, byte)
            reading = reading and offset == at
            if reading and line and (line.txn, line.prev) == (txn + 1, prev):
                lines.append(line)
                at, txn, prev, filled = line.end, line.txn, line.crc, max(filled, line.filled, line.end)
                continue
            reading = False
            if offset == at and raw:
                mark = raw == superseded(txn, prev)
                if not mark and not byte:
                    damage = "the line behind transaction %d was cut off" % txn  # rule 3
                elif len(raw) > MAX_LINE or not mark and complete(raw, prev):  # rules 7, 6
                    damage = "the line behind transaction %d is broken" % txn
            if byte == b"\n":  # rule 4
                damage = damage or "a newline stands behind the last whole line, %d" % txn
            if line:
                filled = max(filled, line.filled)
                if line.synced > txn:  # rule 5
                    damage = damage or "line %d stands behind the last whole line, %d" % (line.txn, txn)
        if os.fstat(self.fd).st_size < filled:  # rule 2
            damage = damage or "it was cut off: %d bytes are missing" % (filled - os.fstat(self.fd).st_size)
        return lines, mark, damage

    def give_up(self, why):
        """With a damaged journal, all lines with a right checksum count, in order of their numbers."""
        self.damage, lines = why, {}
        for offset, raw, byte in self.runs(0):
            line = line_of(raw, offset + len(raw) + 1, byte)
            if line:
                lines.setdefault(line.txn, line)
        self.lines = [lines[txn] for txn in sorted(lines)]

    def tip(self):
        return self.lines[-1].txn if self.lines else self.header["txn"]

    def committed(self):
        """The last committed transaction. Read the lines first, then ask."""
        if self.damage or self.known == len(self.lines) or self.other_boot() or self.writer_is_gone():
            return self.tip()
        return self.last[1]

    def other_boot(self):
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                return self.header["boot"] not in ("", file.read().strip())
        except OSError:
            return False

    def writer_is_gone(self):
        ask = getattr(fcntl, "F_OFD_GETLK", 36)  # Python knows the name from 3.9 on
        answer = fcntl.fcntl(self.fd, ask, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        return struct.unpack("hhqqi4x", answer)[0] == fcntl.F_UNLCK

# Section 3, Files

def open_file(directory, name):
    fd = os.open(name, FLAGS, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damage("%s is no regular file" % name)
    return fd

def content(fd, limit):
    with open(fd, "rb", closefd=False) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Damage("it has more than %d bytes" % limit)
    return data

class Store:
    """An open store: section 7, Opening, without the journal."""

    def __init__(self, path):
        self.dir = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.fpathconf(self.dir, "PC_NAME_MAX") < 255:
            raise Unreadable(".", "names of files can't be long enough")
        self.part("layout", self.open_layout)
        self.snapshots = self.part("snapshots", lambda: os.open("snapshots", FLAGS | os.O_DIRECTORY, dir_fd=self.dir))
        self.part("snapshots", lambda: os.stat(".", dir_fd=self.snapshots))  # its entries can be looked at

    def part(self, name, opener):
        """A part without which the store doesn't open."""
        try:
            return opener()
        except (OSError, Damage) as err:
            raise Unreadable(name, getattr(err, "strerror", None) or str(err))

    def open_layout(self):
        """The version decides first; then the shared lock, which is held until the end."""
        fd = open_file(self.dir, "layout")
        value = parse(content(fd, MAX_LAYOUT), ("format", "version"), False)
        found = member(value, "format", str), number(value, "version")
        if found != ("fsmeta", 2):
            raise Damage("format %s, version %d is not known here" % found)
        deadline = time.monotonic() + 10
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Damage("the store is in use")
                time.sleep(0.02)

    def journal(self):
        return self.part("journal", lambda: Journal(open_file(self.dir, "journal")))

    def exists(self, entry):
        try:
            os.stat(entry, dir_fd=self.snapshots, follow_symlinks=False)
        except OSError as err:
            return err.errno not in (errno.ENOENT, errno.ENOTDIR)
        return True

    def read(self, entry):
        """(name, version) in the tree; (None, None) if there is no such entry."""
        directory = file = None
        try:
            directory = os.open(entry, FLAGS | os.O_DIRECTORY, dir_fd=self.snapshots)
            file = open_file(directory, "metadata.json")
            name, version = metadata(content(file, MAX_FILE))
        except OSError as err:
            if directory is None and err.errno == errno.ENOENT:
                return None, None
            if directory is None and err.errno in (errno.ENOTDIR, errno.ELOOP):
                raise NoDirectory("it is no directory")
            raise Damage(err.strerror)
        finally:
            for fd in (fd for fd in (directory, file) if fd is not None):
                os.close(fd)
        if encode(name) != entry:
            raise Damage("metadata.json is that of another name, %.200s" % json.dumps(name))
        return name, version

# Section 7, Reading a name, Following the journal into a new file, Listing

class Listing:
    """The snapshots at one transaction: found, by name; problems, by entry, "" for snapshots/ itself."""

    def __init__(self, store):
        self.store, self.journal = store, store.journal()
        self.history, self.names, self.counts, self.crcs = {}, {}, {}, {}
        self.found, self.problems, self.nonsense, self.broken, self.taken = {}, {}, None, bool(self.journal.damage), 0
        self.g = self.journal.committed()
        self.counts[self.journal.header["txn"]] = self.journal.header["counts"]
        self.crcs[self.journal.header["txn"]] = self.journal.header.get("prev")
        self.take()
        if self.broken:
            self.prefer_tree()

    def take(self):
        """Takes in the journal's lines that are new to this listing."""
        if self.journal.damage and not self.broken:
            raise Again("the journal was damaged meanwhile")
        for line in self.journal.lines[self.taken:]:
            if self.crcs.get(line.txn, line.crc) != line.crc and not self.broken:
                raise Again("the journal is another one")
            if line.txn not in self.crcs or self.broken:
                self.crcs[line.txn], self.counts[line.txn] = line.crc, (line.count, line.names)
                self.add(line)
        self.taken = len(self.journal.lines)

    def add(self, line):
        try:
            changes = changes_of(line)
        except Damage as err:
            self.nonsense = self.nonsense or "line %d is nonsense: %s" % (line.txn, err)
            return
        for name, before, after in changes:
            self.history.setdefault(name, []).append((line.txn, before, after))
            self.names[encode(name)] = name

    def prefer_tree(self):
        """With a damaged journal the tree decides where it has a later version than the lines."""
        for name in list(self.history):
            try:
                version = self.store.read(encode(name))[1]
            except Damage:
                continue
            if version and version["txn"] > self.history[name][-1][0]:
                self.history[name].append((version["txn"], None, version))
                self.g = max(self.g, version["txn"])

    def look(self):
        """Takes in what is new, and follows the journal into new files."""
        if self.broken:
            return
        self.journal.look()
        while self.journal.superseded:
            new = self.store.journal()
            if os.path.sameopenfile(new.fd, self.journal.fd):  # the checkpoint is not finished
                os.close(new.fd)
                break
            self.journal.look()  # what came before the superseded line
            self.take()
            if new.damage or self.crcs.get(new.header["txn"]) != new.header["prev"]:
                raise Again("a gap between two journals")
            os.close(self.journal.fd)
            self.journal, self.taken = new, 0
        self.take()

    def decided(self, name):
        """(True, version) if known lines name it, else (False, None)."""
        images = self.history.get(name)
        if not images:
            return False, None
        version = images[0][1]
        for txn, _, after in images:
            if txn <= self.g:
                version = after
        return True, version

    def read(self, entry, name):
        """(name, version) at g; the name is None on entry if only the file can say it. Damage is read once more."""
        try:
            return self.read_once(entry, name)
        except Damage:
            return self.read_once(entry, name)

    def read_once(self, entry, name):
        name = name or self.names.get(entry)
        known, version = self.decided(name)
        if known:
            return name, version
        damage, found = None, None
        try:
            found, version = self.store.read(entry)
        except Damage as err:
            damage = err
        self.look()
        name = name or self.names.get(entry) or found
        known, later = self.decided(name)
        if known:
            return name, later
        if damage:
            raise damage
        if version and version["parent"] and not self.is_there(version["parent"]):
            raise Damage("its parent %.200s is missing" % json.dumps(version["parent"]))
        return name, version

    def is_there(self, name):
        known, version = self.decided(name)
        return version is not None if known else self.store.exists(encode(name))

    def run(self):
        entries = [os.fsencode(entry) for entry in os.listdir(self.store.snapshots)]
        self.look()
        shares, strays = [], []
        for entry in set(entries) | set(self.names):
            name, digest = decode(entry)
            name = self.names.get(entry, name)
            if digest is None:
                self.problems[entry] = "no name encodes to it"
                continue
            try:
                name, version = self.read(entry, name)
                if version:
                    self.found[name] = version
                    shares.append(digest)
            except Damage as err:  # it was there
                self.problems[entry] = str(err)
                (strays if isinstance(err, NoDirectory) else shares).append(digest)
        if not self.broken and not self.nonsense:
            self.compare(shares, strays)

    def compare(self, shares, strays):
        """The snapshots that are there with the journal's numbers; without entries that are no directories, too."""
        there = [(len(part), "%016x" % (sum(part) % 2**64)) for part in (shares + strays, shares)]
        counts = self.counts[self.g]
        if counts and counts not in there:
            self.problems[b""] = "%d snapshots with the digest %s are there, the journal says %d with %s" % (*there[1], *counts)

def show(listing, with_txn):
    """Prints a listing, and returns the exit status."""
    if with_txn:
        print(json.dumps({"txn": listing.g}))
    for name in sorted(listing.found, key=str.encode):
        print(json.dumps({"name": name, **listing.found[name]}))
    sys.stdout.flush()
    damage = {"snapshots" + "/" * bool(entry) + entry.decode("utf-8", "backslashreplace"): why
              for entry, why in listing.problems.items()}
    if listing.journal.damage or listing.nonsense:
        damage["journal"] = listing.journal.damage or listing.nonsense
    for path in sorted(damage, key=str.encode):
        print(json.dumps({"damaged": path, "why": damage[path]}), file=sys.stderr)
    return 1 if damage else 0

def main(args):
    if len(args) != 1 + (args[:1] == ["--txn"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        store = Store(args[-1])
        for _ in range(ROUNDS):
            try:
                listing = Listing(store)
                listing.run()
                return show(listing, len(args) == 2)
            except Again as err:
                why = str(err)
        raise Unreadable("journal", "no listing in %d rounds: %s" % (ROUNDS, why))
    except Unreadable as err:
        path, why = err.args
    except OSError as err:
        path, why = ".", str(err)
    print(json.dumps({"unreadable": path, "why": why}), file=sys.stderr)
    return 2

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
