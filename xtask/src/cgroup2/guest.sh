#!/bin/sh
# The first process of the virtual machine of `cargo xtask cgroup2`. It makes the places among the cgroups that a host may find itself in, one after the
# other, says what must be found in each, and runs tests there. The task reads what it prints: what libtest prints, `fault at ..` and `place ok: ..`, and at the end
# `guest: done`.
set -u
C=/sys/fs/cgroup
# Nobody's, so nothing else runs under it.
PLAIN="setpriv --reuid 60999 --regid 60999 --clear-groups"
# What was said last.
SAID=/scratch/said.$$
export PATH=/usr/bin:/usr/sbin TMPDIR=/scratch

LIMITED="waiting::its_cgroups_limit_the_program_that_comes what_a_host_left_is_ended_and_removed_with_its_places"
STARTS="hostile::what_is_required_is_there_or_nothing_starts"

# === places ===

places() {
    begin "root, at the root of the hierarchy"
    finds memory cpu pids
    run "$JAIL" $LIMITED waiting::dropping_it_leaves_nothing a_bound_on_processor_time_is_felt_and_counted
    run "$PROCESS" leaks::plugin_goes_with_a_host_that_is_killed
    of_the_killed=$(left)
    [ -n "$of_the_killed" ] || fault "a host that was killed left nothing for the next one to remove"
    run "$PROCESS" $STARTS bounds::a_plugin_that_spins_is_held_up_and_still_answers hostile::memory_bomb_of_children hostile::fork_bomb
    for group in $of_the_killed; do [ ! -e "$group" ] || fault "no other host removed $group"; done
    end

    begin "root, a service like any other"
    enter system.slice/host.service
    pass_on memory cpu pids / system.slice
    finds memory cpu pids
    run "$JAIL" $LIMITED
    is_a_domain system.slice/host.service
    end

    begin "root, in a container"
    mkdir -p $C/container
    pass_on memory cpu pids /
    sh -c "echo \$\$ > $C/container/cgroup.procs && exec unshare --cgroup --mount sh $0 in_container" || fault "see above"
    end

    begin "a user with a delegated group, the host in one of its own below it"
    mkdir -p $C/system.slice/host.service
    pass_on memory cpu pids / system.slice
    delegate system.slice/host.service
    # As a service does that docs/platforms.md shows.
    below='g=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir -p $g/host && echo $$ > $g/host/cgroup.procs; exec "$@"'
    sh -c 'echo $$ > '"$C/system.slice/host.service/cgroup.procs"' && exec "$@"' - \
        $PLAIN sh -c "$below" - sh "$0" in_delegated || fault "see above"
    end

    begin "a user who is given memory and pids only"
    enter system.slice/host.service/host
    pass_on memory pids / system.slice
    delegate system.slice/host.service
    finds memory pids
    says "has no .cpu. controller: the group above it passes none on"
    run "$JAIL" $LIMITED
    end

    begin "a user with a delegated group, the host in it"
    enter system.slice/host.service
    pass_on memory cpu pids / system.slice
    delegate system.slice/host.service
    finds
    says "host.service. has processes in it"
    run "$JAIL" $LIMITED
    run "$PROCESS" $STARTS
    is_a_domain system.slice/host.service
    end

    begin "a user without a group"
    enter system.slice/host.service
    pass_on memory cpu pids / system.slice
    AS=$PLAIN
    finds
    says "host.service. is not this user's to divide"
    run "$JAIL" $LIMITED
    end
}

# What a container sees: its own part as if it were the whole, which is not the root of all.
in_container() {
    place="root, in a container"
    umount $C && mount -t cgroup2 none $C || fault "no hierarchy of its own"
    finds
    says "has processes in it"
    run "$JAIL" $LIMITED
    is_a_domain .
    enter host
    finds memory cpu pids
    run "$JAIL" $LIMITED
    [ $faults -eq 0 ]
}

in_delegated() {
    place="a user with a delegated group, the host in one of its own below it"
    finds memory cpu pids
    run "$JAIL" $LIMITED waiting::dropping_it_leaves_nothing a_bound_on_processor_time_is_felt_and_counted
    run "$PROCESS" $STARTS
    [ $faults -eq 0 ]
}

# === how a place is made ===

faults=0
AS=

begin() {
    place=$1
    AS=
    faults=0
    echo "== $place"
}

end() {
    enter .
    # A host that ends in a hurry may leave groups, which the next one removes, but nothing in them.
    for group in $(left); do grep -q "populated 0" "$group/cgroup.events" || fault "something runs in $group"; done
    for group in $(find $C -mindepth 1 -depth -type d); do rmdir "$group"; done
    # The last place's are not the next one's.
    for controller in $(cat $C/cgroup.subtree_control); do echo "-$controller" > $C/cgroup.subtree_control; done
    [ $faults -gt 0 ] || echo "place ok: $place"
}

fault() {
    faults=$((faults + 1))
    echo "fault at \"$place\": $*"
}

# Puts this shell, and so all that it starts, into a group.
enter() {
    mkdir -p "$C/$1"
    echo $$ > "$C/$1/cgroup.procs"
}

# `pass_on memory cpu / a a/b`: these groups pass these controllers on.
pass_on() {
    controllers=
    while [ "$1" != / ]; do
        controllers="$controllers +$1"
        shift
    done
    for group; do echo "$controllers" > "$C/$group/cgroup.subtree_control" || fault "$group does not pass on$controllers"; done
}

# As systemd does for `Delegate=yes` and `User=`.
delegate() {
    for file in . cgroup.procs cgroup.subtree_control cgroup.threads; do chown 60999:60999 "$C/$1/$file"; done
    AS=$PLAIN
}

# === what is looked at ===

# Groups of hosts.
left() {
    find $C -name 'mortise-*' -prune
}

# The controllers that a host here must be able to use, in this order.
finds() {
    $AS "$JAIL" --exact this_machine_has_layers_and_says_why_where_not --nocapture > $SAID.layers 2>&1
    grep -e -cgroup: $SAID.layers
    found=$(sed -n 's/^\([a-z]*\)-cgroup: Present("version 2")/\1/p' $SAID.layers)
    [ "$(echo $found)" = "$*" ] || fault "expected: $*; found:" $found
}

# What must be said of the controllers that are not found.
says() {
    grep -q -e "$1" $SAID.layers || fault "not said: $1"
}

is_a_domain() {
    [ "$(cat "$C/$1/cgroup.type")" = domain ] || fault "$1 is of type $(cat "$C/$1/cgroup.type")"
}

# Runs a program's tests: those that are named, or all.
run() {
    program=$1
    shift
    if $AS "$program" ${1+--exact} "$@" > $SAID 2>&1; then :; else fault "$program failed"; fi
    if [ $# -gt 0 ] && ! grep -q "^running $# test" $SAID; then fault "not every test is there: $*"; fi
    cat $SAID
}

# === the machine ===

boot() {
    # A process that is to change its root can't have the very first one.
    mkdir /again
    mount --bind / /again
    cd /again
    mount --move . /
    exec chroot . sh /guest/guest.sh settle
}

settle() {
    mount -t proc none /proc
    mount -t sysfs none /sys
    mount -t devtmpfs none /dev
    mkdir /dev/pts /dev/shm
    mount -t devpts none /dev/pts
    mount -t tmpfs none /dev/shm
    mount -t tmpfs none /run
    mount -t tmpfs -o mode=1777 none /scratch
    mount -t cgroup2 none $C
    echo "$(uname -r), $(cut -d' ' -f1 /proc/uptime) s after its start; $(cat $C/cgroup.controllers)"
    # Not from here: the first process is the parent of whoever loses his own.
    sh /guest/guest.sh places
    echo "guest: done, $(cut -d' ' -f1 /proc/uptime) s after its start"
    echo o > /proc/sysrq-trigger
    sleep 60
}

. /guest/programs
"${@:-boot}"
