#!/usr/bin/env python3
"""Shows that the tests of coherence catch a bug: breaks the daemon on purpose, one way at a time.

    tools/sabotage.py [--target-dir DIR] [--work DIR [--resume]] [--seconds N] [--seeds N]
                      [--torture-only] [--skip-sound] [NAME ...]

`SABOTAGES` is a table of small edits of the daemon's source. In a copy of the working tree each
is made behind a switch that is off, so that one build serves them all and the run without any is
a run of the same binary. The switch is a file beside `pannierd` with the names of what is on.

For each entry its tests run until one fails. What the history checker has to see as well
(`torture`) is then tortured, seed after seed, until a rule is broken. CAUGHT is an entry when both
have failed, and its line says by what. An edit whose text is no longer in the source, or is there
twice, is an error. First everything runs with all switches off and must pass.

The exit code is 1 when something was not caught or when the run without sabotage failed; 2 when an
edit does not apply or the build fails.

It needs a build directory of its own, a copy of the present one so that RocksDB is not compiled
again: 2 to 3 GB of disk in the work directory, which is removed in the end unless it was named. A
named one is used again: cargo builds what has changed, and with `--resume` what has been caught
there before (its file `results`) is not run again. Its file `output` has all that the last test
said that failed.
"""

import argparse
import dataclasses
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

SWITCH = "SABOTAGE"
RESULTS = "results"
# Becomes the call that asks for the edit's own switch.
ON = "SABOTAGED"
MODULE = '''//! Which sabotage is on: the words of a file beside the program. Written by tools/sabotage.py.

use std::sync::LazyLock;

static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let program = std::env::current_exe().expect("this program has a path");
    let text = std::fs::read_to_string(program.with_file_name("SABOTAGE")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
});

pub(crate) fn on(name: &str) -> bool {
    NAMES.iter().any(|it| it == name)
}
'''
# A test takes seconds, a torture run as long as it is told and a little.
TEST_SECONDS_MAX = 240


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of one file."""
    file: str
    text: str
    replacement: str


@dataclasses.dataclass(frozen=True)
class Sabotage:
    """One way to break the daemon; `uses` names others that are on with it."""
    name: str
    what: str
    edits: tuple = ()
    # (file of tests/tests, name of the test), tried in this order.
    tests: tuple = ()
    uses: tuple = ()
    # The history checker sees it too.
    torture: bool = False


class Broken(Exception):
    """The table does not fit the source, or the result does not build."""


def edit(file, text, replacement):
    return Edit("server/src/" + file, text, replacement)


SABOTAGES = (
    Sabotage(
        "fence", "a push does not raise the fence",
        (edit("coherence/supervisor.rs",
              "for key in &keys {",
              f"for key in keys.iter().filter(|_| !{ON}) {{"),),
        (("p06_invalidation", "a_put_of_one_daemon_reaches_the_other"),),
        torture=True),
    Sabotage(
        "own-put", "an own put does not raise the fence at its acknowledgement",
        (edit("engine/through.rs",
              "let change = shared.coherence.changed(name.as_bytes());",
              f"let change = if {ON} {{ shared.coherence.mark().sequence }} "
              "else { shared.coherence.changed(name.as_bytes()) };"),),
        (("p07_in_flight",
          "an_answer_on_its_way_is_not_for_who_comes_after_an_own_change"),),
        torture=True),
    Sabotage(
        "own-put-fresh", "the copy of an own put counts as fresh",
        (edit("engine/through.rs",
              "true => mark,\n            false => Mark {",
              f"true => mark,\n            false if {ON} => shared.coherence.mark(),\n"
              "            false => Mark {"),),
        (("p07_in_flight", "a_write_in_flight_loses_to_what_came_after_it"),)),
    Sabotage(
        "own-invalidation", "an own invalidation does not raise the fence at its acknowledgement",
        (edit("engine/invalidate.rs",
              "wish_away(shared, &names);\n                for keys",
              f"if !{ON} {{ wish_away(shared, &names); }}\n                for keys"),),
        (("p07_in_flight",
          "an_answer_on_its_way_is_not_for_who_comes_after_an_own_change"),),
        torture=True),
    Sabotage(
        "epoch-attach", "no new epoch when the daemon attaches",
        (edit("coherence.rs",
              "Some((self.fences.changed_all(), None))",
              f"Some((if {ON} {{ self.fences.mark().epoch }} else {{ self.fences.changed_all() }}, "
              "None))"),),
        (("coherence_edges", "a_put_of_an_outage_that_others_replaced_is_not_served_in_the_next"),
         )),
    Sabotage(
        "epoch-detach", "no new epoch when the daemon detaches",
        (edit("coherence.rs",
              "self.end_epoch(&mut state);\n                if let",
              f"if !{ON} {{ self.end_epoch(&mut state); }}\n                if let"),),
        (("coherence_edges", "what_was_verified_is_served_in_the_next_outage"),)),
    Sabotage(
        "epochs", "no new epoch at either end of a gap",
        tests=(("p08_gaps", "a_cut_of_one_path_or_both_is_a_gap"),
               ("p08_gaps", "a_restart_of_redis_is_a_gap")),
        uses=("epoch-attach", "epoch-detach"),
        torture=True),
    Sabotage(
        "lease", "an attachment lasts until somebody ends it",
        (edit("coherence.rs",
              "self.clock.now().as_millis() < self.lease_until.load(Ordering::Acquire)\n",
              f"let until = self.lease_until.load(Ordering::Acquire);\n        "
              f"self.clock.now().as_millis() < until || ({ON} && until != 0)\n"),),
        (("p09_lease", "a_daemon_that_stood_still_does_not_trust_what_it_has"),
         ("p09_lease", "a_frozen_path_is_noticed_within_the_lease")),
        torture=True),
    Sabotage(
        "journal", "the journal acknowledges and keeps nothing",
        (edit("journal.rs",
              "let item = item.clone();\n        self.ask",
              f"if {ON} {{ return Ok(()); }}\n        let item = item.clone();\n        self.ask"),),
        (("p10_outage", "an_invalidation_of_an_outage_is_obeyed_at_once_and_applied_later"),),
        torture=True),
    Sabotage(
        "replay", "the journal is not replayed on attaching",
        (edit("engine/outage.rs",
              "self.settle_loss(tier).await?;\n        let begun",
              f"self.settle_loss(tier).await?;\n        if {ON} {{ return Ok(()); }}\n"
              "        let begun"),),
        (("p10_outage", "an_invalidation_of_an_outage_is_obeyed_at_once_and_applied_later"),)),
    Sabotage(
        "journal-restart", "the journal does not survive a restart",
        (edit("journal.rs",
              "let (jobs, queue) = mpsc::channel(QUEUE);",
              f"if {ON} {{ let _ = std::fs::remove_dir_all(data_dir.join(DIRECTORY)); }}\n"
              "        let (jobs, queue) = mpsc::channel(QUEUE);"),),
        (("p10_outage", "kills_at_random_points_of_an_outage_lose_nothing_acknowledged"),)),
    Sabotage(
        "late-mark", "a fill's mark is taken after Redis has answered",
        (edit("engine/shared.rs",
              "found.mark = kept;",
              f"let late = {ON}.then(|| self.coherence.mark());\n"
              "        let (mark, kept) = (late.unwrap_or(mark), late.unwrap_or(kept));\n"
              "        found.mark = kept;"),),
        (("p07_in_flight", "a_fill_in_flight_loses"),)),
    Sabotage(
        "joiners", "who joins a question takes any answer",
        (edit("engine/shared.rs",
              "known.mark.epoch == epoch && known.mark.sequence >= question.begun;",
              f"{ON} || known.mark.epoch == epoch && known.mark.sequence >= question.begun;"),),
        (("p07_in_flight",
          "an_answer_on_its_way_is_not_for_who_comes_after_an_own_change"),)),
    Sabotage(
        "fill", "a fill does not look whether its mark still holds",
        (edit("engine/shared.rs",
              "let holds = || match question.namespace.policy.immutable {",
              f"let holds = || {ON} || match question.namespace.policy.immutable {{"),),
        (("coherence_edges",
          "a_fill_that_an_invalidation_overtook_does_not_come_back_with_a_restart"),)),
    Sabotage(
        "gate", "a daemon attaches while something is being deferred",
        (edit("coherence/supervisor.rs",
              "let _alone = self.coherence.gate.write().await;",
              f"let _alone = if {ON} {{ None }} else {{ Some(self.coherence.gate.write().await) }};"
              ),),
        (("p10_outage", "what_is_deferred_while_the_daemon_comes_back_is_applied"),)),
    Sabotage(
        "predecessors", "connections left behind are not closed before attaching",
        (edit("coherence/supervisor.rs",
              "tier.kill_predecessors(ours, name).await?;",
              f"if !{ON} {{ tier.kill_predecessors(ours, name).await?; }}"),),
        (("coherence_edges", "what_the_process_before_has_left_open_is_closed"),)),
    Sabotage(
        "expiry", "the local tier does not look at the end of a lifetime",
        (edit("tier/local/read.rs",
              "let ended = envelope",
              f"let ended = !{ON} && envelope"),),
        (("p02_lifetime", ""),)),
    Sabotage(
        "remove-any", "the removal of what is older removes whatever is there",
        (edit("tier/shared/remove.rs",
              "if name.is_raw() {\n            return Ok(self.delete(",
              f"if name.is_raw() || {ON} {{\n            return Ok(self.delete("),),
        (("p10_outage", "what_others_wrote_later_is_not_harmed"),)),
    Sabotage(
        "remove-none", "the removal of what is older removes nothing",
        (edit("tier/shared/remove.rs",
              "let than = Bytes::copy_from_slice(than.as_bytes());\n        let removed",
              f"if {ON} {{ return Ok(false); }}\n"
              "        let than = Bytes::copy_from_slice(than.as_bytes());\n        let removed"),),
        (("p10_outage", "a_put_of_an_outage_replaces_what_is_older"),)),
    Sabotage(
        "flush", "a flush is not heard",
        (edit("coherence/supervisor.rs",
              "self.coherence.doubt_everything();",
              f"if !{ON} {{ self.coherence.doubt_everything(); }}"),),
        (("p06_invalidation", "programs_that_know_nothing_of_pannier_are_heard"),)),
    Sabotage(
        "wishes", "what others wish away is not heard",
        (edit("coherence/supervisor.rs",
              "Push::Message(message) => self.replay.heard(&message),",
              f"Push::Message(message) => if !{ON} {{ self.replay.heard(&message) }},"),),
        (("p06_invalidation", "what_a_daemon_keeps_to_itself_is_invalidated_by_others_too"),)),
    Sabotage(
        "unwished", "what is immutable is never looked at as wished away",
        (edit("coherence.rs",
              "let present = self.wishes.mark().epoch;",
              f"if {ON} {{ return true; }}\n        let present = self.wishes.mark().epoch;"),),
        (("p10_outage", "an_immutable_entry_needs_no_verification"),)),
    Sabotage(
        "lease-many", "a lease is given whatever is there",
        (edit("tier/shared/lease.rs",
              "Call::write(key, lease.as_bytes().clone(), millis, true),",
              f"Call::write(key, lease.as_bytes().clone(), millis, !{ON}),"),),
        (("p13_stampede", "of_a_thousand_callers_on_four_daemons_one_computes"),),
        torture=True),
    Sabotage(
        "lease-token", "a token is not looked at",
        (edit("engine/write/checks.rs",
              "(Some(token), _) => token.condition(),",
              f"(Some(token), _) => if {ON} {{ Condition::Always }} else {{ token.condition() }},"),),
        (("p13_stampede", "a_token_that_was_overtaken_writes_nothing"),),
        torture=True),
    Sabotage(
        "lease-outage", "a token is good for any outage",
        (edit("engine/lease/put.rs",
              "Some(Token::Local { epoch, bound, .. }) if epoch == shared.coherence.mark().epoch => {",
              "Some(Token::Local { epoch, bound, .. })\n                if "
              f"{ON} || epoch == shared.coherence.mark().epoch =>\n            {{"),),
        (("p13_stampede", "a_token_is_good_for_the_contact_in_which_it_was_given"),)),
    Sabotage(
        "lease-bound", "a put with a token removes from Redis what is older than the put",
        (edit("engine/lease/put.rs",
              "                Ok(bound)\n",
              f"                Ok(if {ON} {{ self.stamper.bound() }} else {{ bound }})\n"),),
        (("p13_stampede", "while_redis_is_away_each_daemon_elects_by_itself"),)),
    Sabotage(
        "lease-alarm", "an alarm is armed after the look",
        (edit("engine/lease/election.rs",
              "looked = self.look_once(read).await?;\n            if looked",
              f"looked = self.look_once(read).await?;\n            if {ON} {{ alarm.arm(); }}\n"
              "            if looked"),
         edit("changes/alarm.rs",
              "if self.bell.rung.load(Ordering::Acquire) != self.armed_at {",
              f"if !{ON} && self.bell.rung.load(Ordering::Acquire) != self.armed_at {{"),),
        (("p13_stampede", "no_wait_sleeps_through_what_it_waits_for"),)),
    Sabotage(
        "lease-back", "a lease that nobody was told of is not given back",
        (edit("engine/lease/give_back.rs",
              "let _ = self.to.0.try_send(lease);",
              f"if !{ON} {{ let _ = self.to.0.try_send(lease); }}"),),
        (("p13_stampede", "waits_are_bounded_and_who_goes_away_leaves_nothing"),)),
    Sabotage(
        "verify", "a copy is verified whatever its version",
        (edit("engine/shared.rs",
              "Some(there) if of_own(&there) => {",
              f"Some(there) if {ON} || of_own(&there) => {{"),),
        (("p08_gaps", "a_cut_of_one_path_or_both_is_a_gap"),)),
    Sabotage(
        "late-put", "what Redis carries out late ends when Redis says",
        (edit("engine/shared/life.rs",
              "expires.min(self.stamper.latest(stamp).after(lifetime))",
              f"if {ON} {{ return expires; }}\n        "
              "expires.min(self.stamper.latest(stamp).after(lifetime))"),),
        (("p02_lifetime", "what_redis_carries_out_late_ends_in_time"),)),
    Sabotage(
        "tags", "nobody asks whether the tags of an entry are in force",
        (edit("engine/tags.rs",
              "let Some(of_tags) = &namespace.tags else {\n            return Ok(looked);",
              f"let Some(of_tags) = namespace.tags.as_ref().filter(|_| !{ON}) else {{\n"
              "            return Ok(looked);"),),
        (("p15_tags", "every_daemon_obeys_with_a_copy_or_without"),),
        torture=True),
    Sabotage(
        "tag-copies", "a put takes the word of a copy for the generation of a tag",
        (edit("engine/tags.rs",
              "let there = shared.noted(&link, link.tier().check(&name).await);\n        there.ok()",
              f"if {ON} {{ return None; }}\n"
              "        let there = shared.noted(&link, link.tier().check(&name).await);\n"
              "        there.ok()"),),
        (("p15_tags", "what_follows_an_invalidation_that_is_not_heard_of_yet_is_served"),)),
    Sabotage(
        "tag-difference", "an entry is gone when a copy of its tag differs",
        (edit("engine/tags.rs",
              "(false, Some(_)) if asked_redis => Verdict::Gone,",
              f"(false, Some(_)) if asked_redis || {ON} => Verdict::Gone,"),),
        (("p15_tags", "a_daemon_that_has_not_heard_of_the_new_tag_spares_its_entries"),)),
    Sabotage(
        "chunk-damage", "a chunk of a file is not held against its manifest",
        (edit("tier/local/large.rs",
              "if manifest.vouches_for(index, &bytes) {",
              f"if {ON} || manifest.vouches_for(index, &bytes) {{"),),
        (("large_values", "a_file_that_has_gone_or_is_damaged_is_made_up_for_by_redis"),)),
    Sabotage(
        "spare-read", "a value is written over a file that is being read",
        (edit("tier/local/large/index/room.rs",
              "Arc::strong_count(&self.read) == 1",
              f"{ON} || Arc::strong_count(&self.read) == 1"),),
        (("transfers", "a_value_goes_over_the_file_of_one_that_nobody_reads"),)),
    Sabotage(
        "transfers", "what a connection says it is for is not heard",
        (edit("frontdoor/listen/arrival.rs",
              "true => Some(Purpose::Transfers),",
              f"true if !{ON} => Some(Purpose::Transfers),\n        true => ordinary,"),),
        (("transfers", "a_connection_for_transfers_leaves_the_workers_alone"),)),
    Sabotage(
        "foreign-host", "the HTTP port answers whoever comes by another name",
        (edit("frontdoor/http/host.rs",
              "if is_local(&request) {",
              f"if {ON} || is_local(&request) {{"),),
        (("p18_http", "who_asks_a_loopback_address_for_a_foreign_host_learns_nothing"),)),
    Sabotage(
        "deadline", "the daemon does not keep its callers' deadlines",
        (edit("frontdoor/grpc/deadline.rs",
              "let Some(deadline) = Deadline::begin(request.headers()) else {",
              "let deadline = Deadline::begin(request.headers());\n        "
              f"let Some(deadline) = deadline.filter(|_| !{ON}) else {{"),),
        (("api", "a_request_that_does_not_come_whole_is_deadline_exceeded"),)),
    Sabotage(
        "one-fill", "each reader of a large value has it come from Redis",
        (edit("engine/download/fill.rs",
              "if let Some(fill) = fills.get(&manifest.set).and_then(Weak::upgrade) {",
              "let known = fills.get(&manifest.set).and_then(Weak::upgrade);\n        "
              f"if let Some(fill) = known.filter(|_| !{ON}) {{"),),
        (("p01_large", "who_reads_together_costs_one_transfer"),)),
    Sabotage(
        "fill-goes-on", "a large value that nobody wants any more goes on coming from Redis",
        (edit("engine/download/fill.rs",
              "() = gone.cancelled() => return,",
              f"() = gone.cancelled(), if !{ON} => return,"),),
        (("p01_large", "a_transfer_that_nobody_wants_any_more_ends"),)),
    Sabotage(
        "chunk-lifetime", "chunks in Redis keep the lifetime of their upload",
        (edit("engine/upload/transfer.rs",
              "let renewed = redis.live(lifetime).await;",
              f"let renewed = if {ON} {{ Ok(()) }} else {{ redis.live(lifetime).await }};"),),
        (("large_values", "chunks_in_redis_live_as_long_as_the_entry"),)),
    Sabotage(
        "chunk-missing", "a chunk that is not there is left out",
        (edit("engine/download.rs",
              "None => return Ok(self.drop_incomplete(namespace, key, looked, options).await),",
              f"None if {ON} => {{}}\n                "
              "None => return Ok(self.drop_incomplete(namespace, key, looked, options).await),"),),
        (("large_values", "a_chunk_that_has_gone_is_a_miss_of_the_whole"),)),
)


def apply(source, change, name):
    """The source with the edit behind its switch."""
    found = source.count(change.text)
    if found != 1:
        raise Broken(f"{name}: {change.file} has this {found} times instead of once:\n"
                     f"{change.text}")
    switch = f'crate::sabotage::on("{name}")'
    return source.replace(change.text, change.replacement.replace(ON, switch))


def sabotage_tree(tree, table):
    """Makes every edit of the table in a copy of the working tree."""
    names = {entry.name for entry in table}
    for entry in table:
        unknown = [name for name in entry.uses if name not in names]
        if unknown or not (entry.edits or entry.uses):
            raise Broken(f"{entry.name}: nothing to do, or unknown names: {unknown}")
        for change in entry.edits:
            path = os.path.join(tree, change.file)
            if not os.path.exists(path):
                raise Broken(f"{entry.name}: no file {change.file}")
            with open(path, encoding="utf-8") as file:
                source = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(apply(source, change, entry.name))
    with open(os.path.join(tree, "server/src/sabotage.rs"), "w", encoding="utf-8") as file:
        file.write(MODULE)
    with open(os.path.join(tree, "server/src/lib.rs"), "a", encoding="utf-8") as file:
        file.write("mod sabotage;\n")


def copy_tree(root, tree):
    """What git knows of, as it is in the working tree, and what it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, copy = os.path.join(root, name), os.path.join(tree, name)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy2(source, copy)


def renew(tree, fresh):
    """Makes `tree` like `fresh`, and leaves what is the same as it is: cargo goes by the times."""
    for root, _, files in os.walk(fresh):
        for file in files:
            source = os.path.join(root, file)
            target = os.path.join(tree, os.path.relpath(source, fresh))
            if not (os.path.isfile(target) and filecmp.cmp(source, target, shallow=False)):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                # Not copy2: it changes now.
                shutil.copy(source, target)
    for root, _, files in os.walk(tree):
        for file in files:
            target = os.path.join(root, file)
            if not os.path.exists(os.path.join(fresh, os.path.relpath(target, tree))):
                os.remove(target)


def fault_of(output):
    """What the output of a failed test says of why, in a few words."""
    rules = re.findall(r"seed \d+: (\{[^}]*\})", output)
    if rules:
        return "torture: " + rules[-1].replace('"', "")
    panics = re.findall(r"panicked at [^\n]*\n([^\n]+)", output)
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", output, re.M)
    return "; ".join(failed[:1] + panics[:1])[:160] or "no output"


@dataclasses.dataclass
class Run:
    """Whether a test passed, or what it said, and the seconds it took."""
    passed: bool
    fault: str
    seconds: float


class Stage:
    """The built copy."""

    def __init__(self, tree, target, seconds, seeds):
        self.tree, self.target = tree, target
        self.seconds, self.seeds = seconds, seeds
        self.programs = {}

    def build(self, tests):
        command = ["cargo", "test", "--release", "--workspace", "--locked", "--no-run",
                   "--message-format", "json"]
        for test in sorted(tests):
            command += ["--test", test]
        build = ["cargo", "build", "--release", "--workspace", "--locked", "--bin", "pannierd"]
        environment = {**os.environ, "CARGO_TARGET_DIR": self.target}
        if subprocess.run(build, cwd=self.tree, env=environment, check=False).returncode:
            raise Broken("the sabotaged daemon does not build")
        built = subprocess.run(command, cwd=self.tree, env=environment, check=False,
                               stdout=subprocess.PIPE, text=True)
        if built.returncode:
            raise Broken("the tests do not build")
        for line in built.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable"):
                self.programs[message["target"]["name"]] = message["executable"]

    def switch(self, names):
        path = os.path.join(self.target, "release", SWITCH)
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(names))

    def run(self, test, name="", environment=None):
        begun = time.monotonic()
        command = [self.programs[test], "--nocapture", "--test-threads", "2"]
        # A sentence is one test's whole name; none is all of them.
        command += ["--exact", name] if name else []
        try:
            done = subprocess.run(
                command, cwd=os.path.join(self.tree, "tests"), check=False, text=True,
                env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, errors="replace", timeout=TEST_SECONDS_MAX)
            output, passed = done.stdout, done.returncode == 0
            if not passed:
                with open(os.path.join(self.tree, os.pardir, "output"), "w",
                          encoding="utf-8") as file:
                    file.write(output)
            if name and "1 passed" not in output and passed:
                raise Broken(f"{test} has no test {name}")
            fault = "" if passed else fault_of(output)
        except subprocess.TimeoutExpired:
            passed, fault = False, f"{test} did not end within {TEST_SECONDS_MAX} s"
        return Run(passed, fault, time.monotonic() - begun)

    def torture(self, seed):
        return self.run("torture", "no_fault_makes_a_daemon_serve_what_it_must_not",
                        {"PANNIER_TORTURE_SEED": str(seed),
                         "PANNIER_TORTURE_SECONDS": str(self.seconds)})

    def attempts(self, entry):
        """The runs for an entry, in groups of which each has to fail once."""
        tests = [lambda test=test, name=name: self.run(test, name) for test, name in entry.tests]
        seeds = range(1, self.seeds + 1) if entry.torture else ()
        tortures = [lambda seed=seed: self.torture(seed) for seed in seeds]
        return [group for group in (tests, tortures) if group]


def judge(stage, entry):
    """Runs each group until something fails; returns whether something did, and a line."""
    stage.switch(entry.uses + (entry.name,))
    seconds, faults = 0.0, []
    for group in stage.attempts(entry):
        fault = f"NOT SEEN: {entry.what}"
        caught = False
        for attempt in group:
            run = attempt()
            seconds += run.seconds
            if not run.passed:
                caught, fault = True, run.fault
                break
        faults.append((caught, fault))
    stage.switch(())
    right = all(caught for caught, _ in faults)
    verdict = "caught" if right else "NOT CAUGHT"
    detail = " | ".join(fault for _, fault in faults)
    return right, f"{entry.name:17} {verdict:10} {seconds:6.1f} s  {detail}"


def sound(stage, table):
    """Whether everything passes without sabotage; one line for each that does not."""
    tests = tuple(dict.fromkeys(test for entry in table for test in entry.tests))
    torture = any(entry.torture for entry in table)
    lines = []
    for group in stage.attempts(Sabotage("none", "", tests=tests, torture=torture)):
        for attempt in group:
            run = attempt()
            if not run.passed:
                lines.append(f"without sabotage: FAILED: {run.fault}")
    return lines


def chosen(names):
    unknown = set(names) - {entry.name for entry in SABOTAGES}
    if unknown:
        raise Broken(f"no such sabotage: {', '.join(sorted(unknown))}")
    return [entry for entry in SABOTAGES if not names or entry.name in names]


def done_before(directory):
    """The lines of what was caught in this work directory, by name."""
    try:
        with open(os.path.join(directory, RESULTS), encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
    except FileNotFoundError:
        return {}
    words = ((line.split(), line) for line in lines)
    return {name: line for (name, verdict, *_), line in words if verdict == "caught"}


def prepared(arguments, root, directory, table):
    """The built copy in the work directory."""
    tree, target = os.path.join(directory, "tree"), os.path.join(directory, "target")
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        copy_tree(root, fresh)
        sabotage_tree(fresh, SABOTAGES)
        renew(tree, fresh)
    if not os.path.exists(target) and os.path.isdir(arguments.target_dir):
        subprocess.run(["cp", "-a", arguments.target_dir, target], check=True)
    stage = Stage(tree, target, arguments.seconds, arguments.seeds)
    tests = {test for entry in table for test, _ in entry.tests}
    stage.build(tests | ({"torture"} if any(entry.torture for entry in table) else set()))
    stage.switch(())
    return stage


def work(arguments, root, directory):
    table = chosen(arguments.names)
    if arguments.torture_only:
        # What is named is tried even if nobody says that it can be seen.
        table = [dataclasses.replace(entry, tests=(), torture=True) for entry in table
                 if entry.torture or arguments.names]
    before = done_before(directory) if arguments.resume else {}
    left = [entry for entry in table if entry.name not in before]
    for line in (before[entry.name] for entry in table if entry.name in before):
        print(line, flush=True)
    stage = prepared(arguments, root, directory, left)
    faults = [] if arguments.skip_sound else sound(stage, left)
    if not arguments.skip_sound:
        print("\n".join(faults or ["without sabotage  passes"]), flush=True)
    good = not faults
    with open(os.path.join(directory, RESULTS), "a" if before else "w", encoding="utf-8") as file:
        for entry in left:
            right, line = judge(stage, entry)
            print(line, flush=True)
            print(line, file=file, flush=True)
            good = good and right
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    default = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; all by default")
    parser.add_argument("--target-dir", default=default, help="the warm build directory to copy")
    parser.add_argument("--work", help="where to work, and to be kept; a temporary directory")
    parser.add_argument("--resume", action="store_true",
                        help="leave out what has been caught in --work before")
    parser.add_argument("--seconds", type=int, default=30, help="of each torture run")
    parser.add_argument("--seeds", type=int, default=3, help="torture runs at most for each")
    parser.add_argument("--torture-only", action="store_true",
                        help="leave the other tests out: what the history checker sees alone")
    parser.add_argument("--skip-sound", action="store_true", help="not without sabotage first")
    arguments = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        if arguments.work:
            os.makedirs(arguments.work, exist_ok=True)
            return work(arguments, root, os.path.abspath(arguments.work))
        with tempfile.TemporaryDirectory(prefix="pannier-sabotage-") as directory:
            return work(arguments, root, directory)
    except Broken as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
