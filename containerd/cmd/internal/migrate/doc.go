//go:build linux

// Package migrate takes over what a snapshotter that is built into containerd has, metadata and
// content, into the root directory of a snapshotter of this module, and makes containerd's own
// metadata say so: images and containers stay what they are.
//
// A plugin can't have the name of a built-in snapshotter. So everything that containerd's
// meta.db says about From it says about Name afterwards.
//
// # What is changed
//
// In containerd's root directory, where OLD is io.containerd.snapshotter.v1.FROM and META is
// io.containerd.metadata.v1.bolt:
//
//	OLD/metadata.db           is renamed to OLD/metadata.db.imported
//	OLD/snapshots             is renamed to ROOT/snapshots
//	OLD/snapshots.moved       is new: the names of the directories in it, one on a line
//	META/meta.db              says NAME for FROM
//	META/meta.db.before-NAME  is new: what meta.db was before
//
// ROOT gets meta/, the fsmeta store; snapshots/; the file "imported", which says where it is
// all from; and the file "snapshotter" with
// one line: what kind of content there is. As long as the work is not finished, that line is
// "unfinished migration of …", which the snapshotter refuses.
//
// In meta.db, in every namespace: the snapshots of FROM, the leases' snapshots of FROM, the
// snapshotter of containers, the default snapshotter of the namespace
// (containerd.io/defaults/snapshotter), and the labels
// containerd.io/gc.ref.snapshot.FROM, containerd.io/gc.bref.snapshot.FROM and
// containerd.io/gc.cond.snapshot.FROM, with or without a slash and more behind, of images,
// content, ingests, containers, snapshots, sandboxes and leases. Everything else stays.
//
// Not changed, since it is not in meta.db: config.toml, where NAME has to be declared as a
// proxy plugin, and to be named wherever a snapshotter is chosen (for CRI, and for the transfer
// service of containerd 2, without which "ctr image pull" can't unpack); what clients remember
// of their own; and the snapshotter's name in checkpoints of containers,
// which are content.
//
// # Order
//
// Whatever interrupts it, [Run] finishes when it is called again with the same options:
//
//  1. Checks. Nothing is written.
//  2. The root directory, if there is none, with the line "unfinished migration of …".
//  3. ROOT/meta is filled. A second run begins it anew.
//  4. META/meta.db.before-NAME and OLD/snapshots.moved.
//  5. meta.db is changed in a transaction that is not committed yet. Until here, containerd
//     can just go on as before: nothing of it has changed.
//  6. OLD/snapshots is renamed: the point of no return. The transaction is committed.
//  7. OLD/metadata.db is renamed. It names content that is gone, so FROM begins anew.
//  8. The line in ROOT/snapshotter becomes that of the kind.
//
// Each step is on disk before the next begins. meta.db is locked until the end, so that
// no containerd gets in; so are the old metadata.db, and ROOT. Only where a power cut or a kill
// comes between the rename and the commit of step 6, which follow each other at once, may a
// containerd that is started then find snapshots without content. The content is out of its
// reach, and where it has made new snapshots meanwhile, Run refuses and says how to keep both.
//
// # The way back
//
// To the state before, as long as nothing has been pulled, made or removed through the new
// snapshotter that matters. Stop containerd and the snapshotter, and check that no container
// is left running. Then run the commands that [WayBack] returns: they delete what was made
// since, for the built-in snapshotter gives the same identifiers again, put the content and both
// metadata files back, and delete ROOT,
// and take NAME out of config.toml again. What was removed since is named in the metadata and
// not on disk: such images are to be removed and pulled again. Where OLD/snapshots isn't empty,
// the built-in snapshotter was used again beside the new one: those images and containers
// have to be removed first, through containerd.
//
// When all is well, OLD/metadata.db.imported, OLD/snapshots.moved and META/meta.db.before-NAME
// can be deleted.
package migrate
