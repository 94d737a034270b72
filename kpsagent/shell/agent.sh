# The agent of a server that has no Python: it does single effects for a controller that decides, and undoes by itself.
#
# run CONNECTION     commands in and answers out, until the end of file; then whatever is not confirmed is undone
# watch DIRECTORY    undo at the deadline
# boot DIRECTORY     undo now
#
# Before this text stands files='...', the text of files.sh. Directory, journal, state and lock are those of kpsagent/local.py: either
# agent finds what the other left. What the undo needs stands in the journal itself, in lines that JSON passes over as an array's.
#
# A command is a line of words, blanks and bytes in them as printf %b reads them. An answer is any number of parts, hexadecimal
# lines that a line "MARKER ," ends, and then "MARKER . CODE".

# shellcheck disable=SC2154,SC2034 # assigned by "word", and by what stands before this text
# shellcheck disable=SC2030,SC2031 # a subshell has a lock and a number of its own, and is meant to
# shellcheck disable=SC2012,SC2002 # names in /proc are numbers; a file there may be gone by now
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset IFS CDPATH ENV
umask 077
set -f
trap '' HUP PIPE
cd /

unit=kps-undo
boot_unit=/etc/systemd/system/kps-undo-at-boot.service
boot_link=/etc/systemd/system/sysinit.target.wants/kps-undo-at-boot.service
boot_cron=/etc/cron.d/kps-undo-at-boot
boot_script=/etc/rcS.d/S99kps-undo-at-boot
patience=40 # twentieths of a second, with whoever holds the lock at the deadline
locked=no above=

has() { command -v "$1" >/dev/null 2>&1; }

bounded=
# shellcheck disable=SC2209
if timeout -s KILL 5 true 2>/dev/null; then bounded='timeout -s KILL 30'; fi
copying=-p
case $(cp --help 2>&1) in *--preserve*) copying='-p --preserve=all' ;; esac
as_other=su
if has setpriv && setpriv --reuid=0 --regid=0 --init-groups true 2>/dev/null; then as_other=setpriv; fi

# -- words -------------------------------------------------------------------------------------------------------------

word() { # NAME WORD: the variable holds what the word says; for names and paths, not for texts
    word=
    until [ "${word%.}" != "$word" ]; do word=$(printf '%b.' "${2#=}"); done # again where it was killed
    eval "$1=\${word%.}"
}

hexadecimal() {
    od -An -v -tx1
}

part() { # the input is one part of the answer
    hexadecimal
    printf '%s ,\n' "$marker"
}

uptime() { # seconds since boot, sleep included
    IFS=' ' read -r seconds _ </proc/uptime
    printf '%s' "${seconds%.*}"
}

who_am_i() { # the number of this process, also in a subshell
    IFS=' ' read -r self _ </proc/self/stat
}

which_boot() { # as local.py says it
    boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
    first=$(cat /proc/1/stat 2>/dev/null)
    # shellcheck disable=SC2086
    set -- ${first##*)}
    shift 19 2>/dev/null && printf '%s/%s' "$boot" "$1"
}

# -- files -------------------------------------------------------------------------------------------------------------

touch_file() { # RIGHTS VERB DIRECTORY NAME MODE LINKS RANDOM: files.sh, with the rights of a login, or "-" for our own
    kps_verb=$2 kps_dir=$3 kps_name=$4 kps_mode=$5 kps_links=$6 kps_random=$7 kps_path=$3 kps_copy=$copying
    export kps_verb kps_dir kps_name kps_mode kps_links kps_random kps_path kps_copy
    if [ "$1" = - ]; then
        set -- /bin/sh -c "$files" kps
    elif [ $as_other = setpriv ]; then
        set -- setpriv "--reuid=$1" "--regid=$(id -g "$1")" --init-groups /bin/sh -c "$files" kps
    else
        set -- su -s /bin/sh -c "$files" "$1"
    fi
    # This process holds the lock until the other has ended, also where we have not lived to see it; the other does not have it.
    # shellcheck disable=SC2086
    (
        $bounded "$@" 9<&- 2>/dev/null
        exit $?
    )
}

durable() { # FILE: it is on the disk. Not every sync takes a name; but one that could not be written is told
    said=$(sync "$1" 2>&1) || said=$(sync "$1" 2>&1) && return
    case $said in
        *'/O error'* | *'output error'* | *space* | *uota* | *ead-only*)
            printf '%s\n' "$said" >&2
            return 1
            ;;
    esac
    sync
}

pour() { # WORD FILE: into the file, all of it
    printf '%b' "${1#=}" | cat >"$2" && printf '%b' "${1#=}" | cmp -s - "$2" && return
    echo 'not all of it was written' >&2
    return 1
}

# -- our own state -----------------------------------------------------------------------------------------------------

in_directory() { # DIRECTORY: where our state is kept; "" for the usual place
    state=$1
    [ -n "$state" ] && return
    if [ "$(id -u)" = 0 ]; then
        state=/var/lib/kps
    else
        eval "home=~$(id -un)"
            state=$home/.kps
    fi
}

inode_of() {
    # shellcheck disable=SC2046
    set -- $(ls -ldin "$1/." 2>/dev/null)
    printf '%s' "$1"
}

take_lock() { # TRIES: 0 where we have it, 1 where another has, 2 where the directory is not ours
    tries=$1
    mkdir -p "${state%/*}" 2>/dev/null
    while :; do
        if said=$(mkdir -m 711 "$state" 2>&1); then
            chmod 711 "$state"
        fi
        # shellcheck disable=SC2046
        set -- $(ls -ldn "$state" 2>/dev/null)
        case $1 in
            '') tries=$((tries - 1)); [ $tries -gt 0 ] && continue; return 2 ;;
            d????w*|d???????w*|[!d]*) return 2 ;;
        esac
        [ "$3" = "$(id -u)" ] || return 2
        command exec 9<"$state"
        if flock -n 9; then
            if [ "$(inode_of "$state")" = "$(inode_of "/proc/$self/fd/9")" ]; then
                locked=yes
                return 0
            fi
            continue # its last holder took it away as it left
        fi
        exec 9<&-
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05 2>/dev/null || sleep 1
    done
}

leave() {
    [ $locked = yes ] && rmdir "$state" 2>/dev/null
    exit 0
}

write() { # NAME MODE WORD: durable, old or new at every instant
    new=$state/new-$self
    pour "$3" "$new" && chmod "$2" "$new" && durable "$new" && mv -f "$new" "$state/$1" && durable "$state" && return 0
    rm -f "$new"
    return 1
}

generation_of() { # FILE
    number=$(sed -n 's/.*"generation": *\([0-9][0-9]*\).*/\1/p' "$1" 2>/dev/null)
    printf '%s' "${number:-0}"
}

write_state() { # GENERATION WORD
    [ "$1" -ge "$(generation_of "$state/state.json")" ] || return 0
    write state.json 600 "$2"
}

drop_journal() {
    for each in nonce journal.armed journal.revoking journal.confirmed journal.reverting; do
        rm -f "$state/$each" || return 1
    done
    durable "$state"
}

sweep_state() { # what a killed run left half written, and its nonce; the lock is ours
    set +f
    rm -f "$state"/new-* "$state/candidate" "$state/nonce"
    set -f
}

move_journal() { # TO: 1 where somebody has decided before, 2 where it cannot be done
    if ! said=$(mv -f "$state/journal.armed" "$state/journal.$1" 2>&1); then
        [ -e "$state/journal.armed" ] || return 1
        printf '%s\n' "$said" >&2
        return 2
    fi
    durable "$state" || return 2
}

# Whatever reads may be killed, and has then said nothing, or half: only what ends with the mark is had whole.
journal_lines() { # JOURNAL KIND: lines has our lines of this kind in it, bare of JSON; 1 where they are not had
    for _ in 1 2 3 4 5; do
        lines=$({ sed -n "s/^\"$2 \\(.*\\)\"[],}]*\$/\\1/p" "$1" && echo .; } 2>/dev/null | sed 's/\\\\/\\/g')
        case $lines in
            . | *'
.')
                lines=${lines%.} lines=${lines%
}
                return 0
                ;;
        esac
        [ -e "$1" ] || break
    done
    lines=
    return 1
}

undecided() { # the variable has what identifies the operation that is neither confirmed nor undone, if there is one
    for each in armed revoking reverting; do
        journal_lines "$state/journal.$each" head
        undecided=$lines
        [ -z "$undecided" ] || break
    done
}

# -- the undo ----------------------------------------------------------------------------------------------------------

recover() { # finish what was left: 0 where nothing remains, 1 where something does, 2 where only the lock was missing
    if [ $locked = yes ]; then sweep_state; fi
    if [ -e "$state/journal.armed" ]; then move_journal reverting; fi
    if [ -e "$state/journal.revoking" ]; then
        # Never undone: the keys go, by the lines that were found to hold them. Where none are named, the next run says which.
        ended=partial journal=$state/journal.revoking
        journal_lines "$journal" gone
        [ -n "$lines" ] || return 1
    elif [ -e "$state/journal.confirmed" ]; then
        ended=succeeded journal=$state/journal.confirmed
    elif [ -e "$state/journal.reverting" ]; then
        ended=reverted journal=$state/journal.reverting
    else
        [ $locked = yes ] || return 0
        disarm
        return
    fi
    journal_lines "$journal" head
    head=$lines
    [ -n "$head" ] || return 1 # of an agent in Python: the next run goes on
    # shellcheck disable=SC2086
    set -- $head
    operation=$1 generation=$2
    case $ended in
        reverted) undo_steps step || return 1 ;;
        partial) undo_steps gone || return 1 ;;
    esac
    [ $locked = yes ] || return 2
    if grep -q '"owed"' "$state/state.json" 2>/dev/null; then return 1; fi # not to be written over: the next run keeps it
    word name "$operation"
    write_state "$generation" "={\"operation\":\"$name\",\"generation\":$generation,\"result\":\"$ended\"}\\n" || return 1
    drop_journal && disarm
}

undo_steps() { # KIND OF LINE: what narrowed whatever else cannot be, what widened only while nothing is left
    left=0 whole=no
    journal_lines "$journal" "$1" || return 1
    while read -r half kind login directory name mode links before after added removed where ground inode; do
        if [ "$half" = . ]; then whole=yes; fi
        if [ "$whole" = yes ] || [ -z "$half" ]; then continue; fi
        undecided
        if [ "$undecided" != "$head" ]; then return 1; fi # it is over
        if [ $left != 0 ] && [ "$half" = widen ]; then continue; fi
        undo_step || left=1
    done <<END
$lines
.
END
    [ $whole = yes ] && return $left
}

undo_step() { # the variables of undo_steps
    word login "$login" && word directory "$directory" && word name "$name" && word mode "$mode"
    if [ "$login" != - ] && ! id -u "$login" >/dev/null 2>&1; then return 1; fi
    if [ "$ground" != - ]; then
        word ground "$ground"
            ends_with "$inode" inode "$login" "$ground" || return 1
    fi
    case $kind in
        directory) ends_with 'ok missing full' rmdir "$login" "$directory" ;;
        mode) ends_with 'ok changed' mode "$login" "$directory" ;;
        *)
            said=$(printf '%s\n' "$before" "$after" "$added" "$removed" |
                touch_file "$login" undo "$directory" "$name" "$where" "$links" "$self-undo")
            case $said in *'
ok') ;; *) return 1 ;; esac
            if [ "$kind" = block ]; then reload_after_undo; fi
            ;;
    esac
}

ends_with() { # WORDS VERB LOGIN DIRECTORY: whether files.sh ends with one of the words, or prints that
    said=$(touch_file "$3" "$2" "$4" "$name" "$mode" "$links" "$self-undo" </dev/null)
    printed=${said%
*} said=${said##*
}
    if [ "$2" = inode ]; then said=$printed; fi
    case " $1 " in *" ${said%% *} "*) [ -n "$said" ] ;; *) false ;; esac
}

listening() { # the inodes of the sockets that listen at our port for our address; not 0 where that was not found out
    tables=/proc/net/tcp
    if [ -r /proc/net/tcp6 ]; then tables="$tables /proc/net/tcp6"; fi
    # shellcheck disable=SC2086
    awk -v port="$1" -v ours="$2" '$4 == "0A" { split($2, at, ":"); if (at[2] == port && (at[1] ~ /^0+$/ || at[1] == ours ||
        substr(at[1], length(at[1]) - 7) == ours)) print $10 }' $tables 2>/dev/null
}

listener() { # INODES: the sshd that holds one of them
    for socket in $1; do
        set +f
        for each in /proc/[0-9]*; do
            case $(readlink "$each/exe" 2>/dev/null) in */sshd|*'/sshd (deleted)') ;; *) continue ;; esac
            # shellcheck disable=SC2010
            if ls -l "$each/fd" 2>/dev/null | grep -qF "socket:[$socket]"; then
                set -f
                printf '%s' "${each#/proc/}"
                return
            fi
        done
        set -f
    done
}

first_holds() { # INODES: those that process 1 holds too: systemd made them, and sshd keeps them
    held=$(ls -l /proc/1/fd 2>/dev/null)
    [ $? -le 128 ] || return 1 # killed
    for socket in $1; do
        case $held in *"socket:[$socket]"*) printf '%s ' "$socket" ;; esac
    done
}

reload_after_undo() { # have sshd run on the restored file, unless it does not accept it
    journal_lines "$journal" sshd || return 1
    # shellcheck disable=SC2086
    set -- $lines
    [ $# -ge 5 ] || return 0 # each connection has the file read anew
    port=$1 address=$2 was=$3
    word service "$4"
    shift 4
    for each; do
        word each "$each"
        set -- "$@" "$each"
        shift
    done
    if ! "$@" -t </dev/null >/dev/null 2>&1; then return 1; fi
    before=$(listening "$port" "$address") || return 1
    pid=$(listener "$before")
    firsts=$(first_holds "$before") || return 1
    if [ -z "$pid" ] && [ "$was" != "$(which_boot)" ]; then return 0; fi # the system starts its own
    if [ -n "$service" ]; then
        case $pid/$firsts in
            [0-9]*/) systemctl reload "$service" ;;
            # An sshd that starts anew by itself does not find systemd's socket again.
            *) systemctl restart "$service" ;;
        esac
    elif [ -n "$pid" ]; then
        kill -HUP "$pid"
    elif [ -z "$before" ]; then
        "$@" 9<&- </dev/null >/dev/null 2>&1
    else
        false # who listens was not found out: not another one beside it
    fi || return 1
    for wait in .2 .2 .2 .2 .2 1 1 1 1 1 1 1 1 1 1 1 1 1 1; do
        sleep $wait 2>/dev/null || sleep 1
        for socket in $(listening "$port" "$address"); do
            case " $(printf '%s ' "$before" | tr '\n' ' ') " in *" $socket "*) ;; *) return 0 ;; esac
            if [ -n "$(first_holds "$socket")" ]; then return 0; fi
        done
    done
    return 1
}

# -- the undo that outlives the session ---------------------------------------------------------------------------------

watch() {
    undecided
    ours=$undecided
    while [ -n "$ours" ]; do
        # shellcheck disable=SC2086
        set -- $ours
        if [ "$(uptime)" -ge "$3" ]; then
            undo_now "$ours"
            return
        fi
        sleep 1
        undecided
        if [ "$undecided" != "$ours" ]; then
            tidy_up "$ours"
            return
        fi
    done
}

tidy_up() { # OURS: where the agent has died between its commit and its end; while it lives it does so itself
    tried=0
    while [ $tried -lt 60 ]; do
        sleep 1
        undecided
        journal_lines "$state/journal.confirmed" head
        standing=$undecided$lines
        if [ -z "$standing" ]; then
            [ -e "$state/agent" ] || return
        elif [ "$standing" != "$1" ]; then
            return
        fi
        (
            who_am_i
            take_lock 1 && recover
        ) && return
        tried=$((tried + 1))
    done
}

end_agent() { # past the deadline, and still waiting for a controller that says nothing: it keeps the lock from us
    # shellcheck disable=SC2046
    set -- $(sed 's/.*)//' "/proc/$self/stat" 2>/dev/null)
    if [ -n "$above" ] && [ "$2" = "$above" ]; then kill -9 "$above" 2>/dev/null; fi
}

undo_now() { # OURS: until it is through; a server without this undo may have no way in
    attempt=0
    while [ $attempt -lt 60 ]; do
        undecided
        [ "$undecided" = "$1" ] || return
        (
            who_am_i
            take_lock $patience
            recover
        ) && return
        attempt=$((attempt + 1))
        sleep 10
        end_agent
    done
}

boot_ways() {
    if [ -d /run/systemd/system ]; then
        echo 'boot unit'
        return
    fi
    if [ -d "${boot_script%/*}" ]; then echo 'boot script'; fi
    if [ -d "${boot_cron%/*}" ] && [ -e /usr/sbin/cron ]; then echo 'cron at boot'; fi
}

place() { # FILE MODE: the input
    cat >"$1" && chmod "$2" "$1" && durable "$1" && durable "${1%/*}"
}

arm() {
    agent=$state/agent
    printf '%s\n' "$program" | place "$agent" 600 || return 1
    command="/bin/sh $agent boot $state"
    case $(boot_ways) in *'boot unit'*)
        place "$boot_unit" 644 <<END || return 1
[Unit]
Description=undo of an sshd_config change that was never confirmed
DefaultDependencies=no
After=local-fs.target
Before=ssh.service sshd.service ssh.socket sshd.socket

[Service]
Type=oneshot
KillMode=process
ExecStart=$command

[Install]
WantedBy=sysinit.target
END
        mkdir -p "${boot_link%/*}" && ln -sf "$boot_unit" "$boot_link" && durable "${boot_link%/*}" || return 1
        ;;
    esac
    case $(boot_ways) in *script*) printf '#!/bin/sh\nexec %s\n' "$command" | place "$boot_script" 755 || return 1 ;; esac
    case $(boot_ways) in *cron*) printf '@reboot root %s\n' "$command" | place "$boot_cron" 644 || return 1 ;; esac
    boot_ways
    if [ -d /run/systemd/system ] && has systemd-run; then
        systemctl stop $unit.service 2>/dev/null
        systemd-run --quiet --collect --unit=$unit -p Type=exec -- /bin/sh "$agent" watch "$state" 9<&- 2>/dev/null && echo 'systemd unit'
    fi
    echo 'detached process' # began when the journal was written
}

disarm() {
    armed=
    for each in $boot_link $boot_unit $boot_script $boot_cron "$state/agent"; do
        if [ -e "$each" ] || [ -h "$each" ]; then
            # Where one stays, so does the agent, which is the last of them: by that it is seen that something was left.
            rm -f "$each" || return 1
            durable "${each%/*}" || return 1
            armed=yes
        fi
    done
    # Last of all, and without waiting: this may be the very unit that is stopped.
    if [ -n "$armed" ] && [ -d /run/systemd/system ]; then systemctl stop --no-block $unit.service 2>/dev/null; fi
    return 0
}

watch_beside() { # a process that no session owns
    (
        trap - TERM # no shutdown waits for it: the boot undoes
        exec </dev/null >/dev/null 2>&1 9<&-
        { echo -900 >/proc/self/oom_score_adj; } 2>/dev/null
        locked=no above=$self
        who_am_i
        watch
    ) &
}

# -- commands ----------------------------------------------------------------------------------------------------------

program_of() { # OUT ERR TEXT PROGRAM WORD...: run it; a text stands at "candidate" meanwhile. 250 where what it says cannot be kept
    out=$1 err=$2
    if [ "$3" != - ] && ! pour "$3" "$state/candidate"; then
        rm -f "$state/candidate"
        return 250
    fi
    shift 3
    for each; do
        word each "$each"
        set -- "$@" "$each"
        shift
    done
    # What it says goes through cat, which tells when the disk is full: half of what sshd says of itself is not to be gone by.
    # shellcheck disable=SC2086
    said=$({ { { $bounded "$@" </dev/null 2>"$err" 9<&- 3>&-; } 2>&3; printf '%s' $? >&3; } | { cat >"$out"; } 2>&3; } 3>&1)
    rm -f "$state/candidate"
    case $said in
        *[!0-9]* | '')
            printf '%s\n' "$said" >&2
            return 250
            ;;
    esac
    return "$said"
}

reported() { # COMMAND...: where it fails, a part of the answer says why
    told=$("$@" 2>&1)
    code=$?
    [ $code = 0 ] || printf '%s' "$told" | part
    return $code
}

each_sshd() { # pid, parent and program; arguments; control group; descriptors
    set +f
    for each in /proc/[0-9]*; do
        set -f
        executable=$(readlink "$each/exe" 2>/dev/null)
        case $executable in */sshd|*/sshd-session|*/sshd-auth|*/dropbear|*' (deleted)') ;; *) continue ;; esac
        stat=$(cat "$each/stat" 2>/dev/null)
        # shellcheck disable=SC2086
        set -- ${stat##*)}
        printf '%s %s %s' "${each#/proc/}" "$2" "$executable" | part
        cat "$each/cmdline" 2>/dev/null | part
        cat "$each/cgroup" 2>/dev/null | part
        ls -l "$each/fd" 2>/dev/null | sed -n 's/.*socket:\[\([0-9]*\)\].*/\1/p' | part
    done 2>/dev/null
    set -f
}

ancestors() {
    pid=$self
    while [ "${pid:-0}" -gt 1 ]; do
        stat=$(cat "/proc/$pid/stat" 2>/dev/null)
        # shellcheck disable=SC2086
        set -- ${stat##*)}
        pid=$2
        printf '%s ' "$pid"
    done
}

answer() { # COMMAND WORD...
    verb=$1
    shift
    case $verb in
        lock)
            take_lock "$1"
            code=$?
            [ $code != 2 ] || printf '%s' "$said" | part
            return $code
            ;;
        close)
            if [ $locked = yes ]; then
                rmdir "$state" 2>/dev/null
                exec 9<&-
                locked=no
            fi
            ;;
        file) # RIGHTS VERB DIRECTORY NAME MODE LINKS RANDOM TEXT...
            for each in rights deed directory name mode links random; do
                word $each "$1"
                shift
            done
                    for each; do printf '%s\n' "$each"; done | touch_file "$rights" "$deed" "$directory" "$name" "$mode" "$links" "$random" | part
            ;;
        look) # RIGHTS PATH...
            word rights "$1"
            shift
            for each; do
                word directory "$each"
                touch_file "$rights" look "$directory" '' '' any '' </dev/null | part
            done
            ;;
        kept)
            [ -e "$state/$1" ] || return 1
            dd if="$state/$1" bs=65536 count="$2" 2>/dev/null | part
            ;;
        tidy) sweep_state ;;
        state) reported write_state "$1" "$2" ;;
        journal) reported write journal.armed 600 "$1" && watch_beside ;;
        move) reported move_journal "$1" ;;
        drop) reported drop_journal ;;
        nonce) reported write nonce 644 "$1" ;;
        arm)
            told=$(arm 2>&1)
            code=$?
            printf '%s\n' "$told" | part
            return $code
            ;;
        disarm) reported disarm ;;
        clock)
            { cat /proc/uptime; which_boot; } | part
            [ -e "$state/journal.armed" ]
            ;;
        text) # PATH BLOCKS
            word path "$1"
                    dd if="$path" bs=65536 count="$2" 2>/dev/null | part
            ;;
        group_numbers)
            word name "$1"
            id -G "$name" 2>/dev/null | part
            ;;
        entry)
            word name "$1"
            getent passwd "$name" 2>/dev/null | part
            ;;
        glob)
            word pattern "$1"
                    (
                IFS=''
                set +f
                for each in $pattern; do [ ! -e "$each" ] && [ ! -h "$each" ] || printf '%s\n' "$each"; done
            ) | part
            ;;
        times)
            for each; do
                word path "$each"
                stat -c '%Y %Z' "$path" 2>/dev/null | part
            done
            ;;
        date) date +%s | part ;;
        sshds)
            ancestors | part
            each_sshd
            ;;
        net)
            cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | part
            ls -l /proc/1/fd 2>/dev/null | sed -n 's/.*socket:\[\([0-9]*\)\].*/\1/p' | part
            ;;
        alive) [ -d "/proc/$1" ] ;;
        program)
            told=$(program_of "$state/new-out" "$state/new-err" "$@" 2>&1)
            code=$?
            if [ $code = 250 ]; then
                printf '%s' "$told" | part
            else
                part <"$state/new-out"
                part <"$state/new-err"
            fi
            rm -f "$state/new-out" "$state/new-err"
            return $code
            ;;
        hup) kill -HUP "$1" 2>/dev/null ;;
        run_directory) mkdir /run/sshd && chmod 755 /run/sshd ;;
        *) return 64 ;;
    esac
}

tools() { # those that we cannot do without and that are missing
    for each in awk cat chmod cmp cp date dd flock grep id ln ls mkdir mv od readlink rm rmdir sed sleep sync tail tr; do
        has $each || printf '%s ' $each
    done
    [ -r /proc/uptime ] && [ -r "/proc/$$/stat" ] || printf '/proc '
    [ "$(printf '\101' | od -An -v -tx1 2>/dev/null | tr -d ' \n')" = 41 ] || printf 'od '
}

run() { # CONNECTION DIRECTORY
    # logind ends what a session leaves (logind.conf(5), KillUserProcesses): first with this, then after a minute and a half for good.
    trap '' TERM
    who_am_i
    in_directory "$2"
    IFS= read -r marker || exit 0
    missing=$(tools)
    printf '%s shell root=%s connection=%s order=%s copy=%s boot=%s missing=%s\n' "$marker" "$(id -u)" \
        "$(printf '%s' "$1" | tr ' ' ,)" "$(printf '\1\0' | od -An -td2 2>/dev/null | tr -d ' ')" "$(printf %s "$copying" | tr -d ' ')" \
        "$(boot_ways | tr ' \n' _,)" "$(printf %s "$missing" | tr ' ' ,)"
    printf '%s home=' "$marker"
    printf '%s' "$state" | od -An -v -tx1 | tr -d ' \n'
    echo
    [ -z "$missing" ] || exit 0
    while IFS= read -r line; do
        # shellcheck disable=SC2086
        answer $line
        printf '%s . %s\n' "$marker" $?
    done
    exec </dev/null >/dev/null 2>&1
    # Nobody is there any more: what stands armed is undone now, and not only at the deadline. Once more where a tool had its end of
    # what ends the session.
    if [ $locked = yes ]; then recover || recover; fi
    leave
}

case $1 in
    run) run "$2" "$3" ;;
    watch | boot)
        who_am_i
        in_directory "$2"
        if [ "$1" = watch ]; then
            watch
        else
            undecided
            ours=$undecided
            if [ -n "$ours" ] || [ -e "$state/journal.confirmed" ]; then
                (
                    who_am_i
                    take_lock $patience
                    recover
                ) || { undo_now "$ours" & }
            fi
        fi
        ;;
esac
