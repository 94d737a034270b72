# One thing done to one file, by a process that has the rights of whoever's file it is and no others: /bin/sh -c "$files".
#
# From the environment: kps_verb; kps_dir (absolute) and kps_name, or kps_path for what only looks; kps_mode; kps_random, for the
# names of temporary files; kps_copy: the options of cp; kps_links=any where a file may have several names. From standard input, a line each: "-" for no file,
# or "=" and a text as printf %b reads it. Prints what was asked for, a newline, and as its last line how it ended.

# shellcheck disable=SC2154 # what comes from the environment
# shellcheck disable=SC2015 # A && B || fails: fails never returns
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
set -f
file=./$kps_name
temp=./.$kps_name.kps-$kps_random
case $kps_verb in replace | undo) ;; *) temp= ;; esac

ends() { # WORD...: the last line, and out; nothing of ours stays
    if [ -n "$temp" ] && ! swept && ! swept && [ "$1" = ok ]; then
        # Told as a failure, so that it is undone; and that takes away what is left of us here.
        set -- error "$(printf '%s' "$said" | tr '\n\000' '  ')"
    fi
    printf '\n%s' "$*"
    exit 0
}

swept() { # whether nothing of ours is left beside the file
    said=$(rm -f "$temp" "$temp.seen" "$temp.want" 2>&1)
}

fails() { # TEXT OF A SYSTEM ERROR
    ends error "$(printf '%s' "$1" | tr '\n\000' '  ')"
}

try() { # COMMAND...: it must work
    said=$("$@" 2>&1 >/dev/null) || fails "$said"
}

enter() { # [WORD]: the directory, links resolved with our own rights; ends with the word where there is none
    cd -P "$kps_dir" 2>/dev/null && return
    said=$(ls -ldn "$kps_dir/." 2>&1 >/dev/null) && said='Permission denied'
    case $1:$said in :*) ;; *'No such file'*) ends "$1" ;; esac
    fails "$said"
}

is_there() { [ -e "$1" ] || [ -h "$1" ]; }

plain() { # FILE: ends where it is none, or has several names
    if [ -h "$1" ]; then ends kind link; fi
    if [ -d "$1" ]; then ends kind directory; fi
    if [ -p "$1" ]; then ends kind fifo; fi
    if [ -S "$1" ]; then ends kind socket; fi
    if [ ! -f "$1" ]; then ends kind device; fi
    # shellcheck disable=SC2046 # the words of a line are what is wanted
    set -- $(ls -ldn "$1")
    if [ "$2" != 1 ] && [ "$kps_links" != any ]; then ends names "$2"; fi
}

facts() { # FILE: its mode, number of names, owner and group
    # shellcheck disable=SC2046
    set -- $(ls -ldn "$1")
    printf '%s %s %s %s' "$1" "$2" "$3" "$4"
}

durable() { # FILE: it is on the disk. Not every sync takes a name; but one that could not be written is told
    said=$(sync "$1" 2>&1) || said=$(sync "$1" 2>&1) && return
    case $said in *'/O error'* | *'output error'* | *space* | *uota* | *ead-only*) fails "$said" ;; esac
    sync
}

holds() { # FILE TEXT: whether that is what it holds; "-" for no file
    if [ "$2" = - ]; then
        ! is_there "$1"
    elif [ "$2" = seen ]; then
        [ ! -h "$1" ] && [ -f "$1" ] && cmp -s "$temp.seen" "$1"
    else
        [ ! -h "$1" ] && [ -f "$1" ] && printf '%b' "${2#=}" | cmp -s - "$1"
    fi
}

pour() { # TEXT FILE: into the file, all of it
    if [ "$1" = want ]; then
        said=$(cat "$temp.want" 2>&1 >"$2") && cmp -s "$temp.want" "$2" || fails "${said:-No space left on device}"
    else
        said=$({ printf '%b' "${1#=}" | cat >"$2"; } 2>&1) && printf '%b' "${1#=}" | cmp -s - "$2" || fails "${said:-No space left on device}"
    fi
}

put() { # EXPECTED TEXT: the file holds the text, or what it held before, at every instant
    set -C
    said=$({ : >"$temp"; } 2>&1) || fails "$said"
    set +C
    before=
    if is_there "$file"; then
        plain "$file"
        before=$(facts "$file")
        # shellcheck disable=SC2086 # the options of cp are words
        try cp $kps_copy "$file" "$temp"
    else
        try chmod "$kps_mode" "$temp"
    fi
    pour "$2" "$temp"
    # A file of keys runs nothing: a set-user-ID bit is not kept.
    [ -z "$before" ] || try chmod ug-s,-t "$temp"
    now=$(facts "$temp")
    if [ -n "$before" ] && [ "$now" != "$before" ] && [ "$(printf '%s' "$before" | sed y/stST/xx--/)" != "$now" ]; then
        ends attributes "$before" became "$now"
    fi
    durable "$temp"
    # Between this look and the rename somebody may write into the file: what they wrote is still in it when it is displaced.
    # shellcheck disable=SC3045
    [ "$1" = - ] || command exec 8<"$file"
    holds "$file" "$1" || ends changed
    if [ "$1" = - ]; then
        said=$(ln "$temp" "$file" 2>&1) || { is_there "$file" && ends changed; fails "$said"; }
    else
        try mv -f "$temp" "$file"
        pass_on "$1"
    fi
    rm -f "$temp"
    durable .
}

pass_on() { # EXPECTED: what the displaced file holds over it is written at the end of ours, and told
    said=$({ cat <&8 >"$temp.want"; } 2>&1) || fails "$said"
    holds "$temp.want" "$1" && return
    if [ "$1" = seen ]; then cat "$temp.seen"; else printf '%b' "${1#=}"; fi >"$temp"
    count=$(grep -c '' "$temp")
    [ -z "$(tail -c 1 "$temp")" ] || echo >>"$temp"
    # shellcheck disable=SC2086
    kept "$temp.want" $count "$temp.late"
    [ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
    said=$({ cat "$temp.late" >>"$file"; } 2>&1) || fails "$said"
    durable "$file"
    rm -f "$temp.late"
    ends changed
}

take() { # EXPECTED: the file is gone
    holds "$file" "$1" || ends changed
    [ "$1" = - ] || try rm -f "$file"
    durable .
}

without() { # how many lines of the input are to be taken out, each once, from what follows them
    awk -v most="$1" 'NR <= most { gone[$0]++; next } gone[$0] > 0 { gone[$0]--; next } { print }'
}

kept() { # TEXT COUNT FILE: into the file, the text without the lines in $temp, all of it
    cat "$temp" "$1" | without "$2" >"$3" && cat "$temp" "$1" | without "$2" | cmp -s - "$3" || fails 'No space left on device'
}

undone() { # ADDED REMOVED WHERE: $temp.want is what was seen, without the lines added and with those removed, at its top or end
    # shellcheck disable=SC2094
    tr -d '\000' <"$temp.seen" | cmp -s - "$temp.seen" || fails 'it holds NUL bytes by now'
    pour "$1" "$temp"
    count=$(wc -l <"$temp")
    # shellcheck disable=SC2086 # BusyBox and others put blanks before the number
    kept "$temp.seen" $count "$temp.want"
    if [ -n "$(tail -c 1 "$temp.seen")" ] && [ -s "$temp.want" ] && [ "$(tail -n 1 "$temp.seen")" = "$(tail -n 1 "$temp.want")" ]; then
        # The last line had no end, and awk gave it one.
        printf '%s' "$(cat "$temp.want")" >"$temp" && mv -f "$temp" "$temp.want"
    fi
    pour "$2" "$temp"
    if [ "$3" = top ]; then
        said=$({ cat "$temp" "$temp.want" >"$temp.seen.new" && mv -f "$temp.seen.new" "$temp.want"; } 2>&1) || fails "$said"
    elif [ -s "$temp" ]; then
        [ -z "$(tail -c 1 "$temp.want")" ] || echo >>"$temp.want"
        while IFS= read -r line; do
            grep -qxF -e "$line" "$temp.want" || printf '%s\n' "$line" >>"$temp.want" || fails 'No space left on device'
        done <"$temp"
    fi
    rm -f "$temp"
}

undo() { # BEFORE AFTER ADDED REMOVED: what we did to the file is taken back, and nothing that others did
    for _ in 1 2 3; do
        if ! is_there "$file"; then
            # Where it was we who took it away, it comes back.
            if [ "$2" = - ] && [ "$1" != - ]; then kps_mode=600 && put - "$1"; fi
            return 0
        fi
        plain "$file"
        said=$(cat "$file" 2>&1 >"$temp.seen") || fails "$said"
        holds "$temp.seen" "$1" && return 0
        if holds "$temp.seen" "$2"; then
            want=$1
        else
            undone "$3" "$4" "$kps_mode"
            cmp -s "$temp.seen" "$temp.want" && return 0
            want=want
        fi
        # In a process of its own, which ends when somebody else was quicker: then we look again.
        # shellcheck disable=SC2030
        said=$(
            kps_mode=600
            if [ "$want" = - ]; then take seen; else put seen "$want"; fi
            temp=
            ends ok
        )
        case $said in
            *'
ok') return 0 ;;
            *'
changed') ;;
            *) ends "${said##*
}" ;;
        esac
    done
    fails 'somebody else keeps changing it'
}

# shellcheck disable=SC2031
case $kps_verb in
    real) # where a path leads; what is not there on it is left as it stands
        rest='' here=$kps_path
        until cd -P "$here" 2>/dev/null; do
            if [ -h "$here" ] && [ -e "$here" ]; then
                here=$(readlink -f "$here") # a link to a file
                [ -n "$here" ] || fails 'Too many levels of symbolic links'
            fi
            rest=/${here##*/}$rest here=${here%/*}
            [ -n "$here" ] || here=/
        done
        [ "$PWD" != / ] || [ -z "$rest" ] || { printf '%s' "$rest"; ends ok; }
        printf '%s%s' "$(pwd -P)" "$rest"
        ;;
    look) # what is there, not following it
        is_there "$kps_path" || ends missing
        said=$(ls -ldn "$kps_path" 2>&1 >/dev/null) || fails "$said"
        facts "$kps_path"
        echo
        [ ! -h "$kps_path" ] || printf '%s' "$(readlink "$kps_path")"
        ;;
    inode)
        [ -d "$kps_path" ] || ends missing
        # shellcheck disable=SC2046
        set -- $(ls -ldin "$kps_path/.")
        printf '%s' "$1"
        ;;
    read)
        enter
        is_there "$file" || ends missing
        plain "$file"
        facts "$file"
        echo
        { said=$(dd if="$file" bs=65536 count="$kps_mode" 2>&1 >&3) || fails "$said"; } 3>&1
        ;;
    replace)
        enter
        IFS= read -r expected
        IFS= read -r text
        put "$expected" "$text"
        ;;
    delete)
        enter
        IFS= read -r expected
        take "$expected"
        ;;
    undo)
        enter ok
        IFS= read -r before
        IFS= read -r after
        IFS= read -r added
        IFS= read -r removed
        set +f
        rm -f "./.$kps_name.kps-"*
        set -f
        undo "$before" "$after" "$added" "$removed"
        ;;
    directory)
        enter
        is_there "$file" && ends changed
        try mkdir "$file"
        try chmod "$kps_mode" "$file"
        durable .
        ;;
    rmdir)
        enter missing
        is_there "$file" || ends missing
        rmdir "$file" 2>/dev/null || {
            [ -d "$file" ] && [ ! -h "$file" ] || ends full
            said=$(rmdir "$file" 2>&1)
            case $said in *"ot empty"*) ends full ;; *) fails "$said" ;; esac
        }
        durable .
        ;;
    mode) # kps_mode: as ls writes the one expected, and the new one as chmod takes it
        enter
        [ ! -h "$file" ] && [ -e "$file" ] || ends changed
        # shellcheck disable=SC2046
        set -- $(ls -ldn "$file")
        now=${1#?} now=${now%[.+@]}
        [ "$now" = "${kps_mode% *}" ] || ends changed
        try chmod "${kps_mode#* }" "$file"
        durable "$file"
        ;;
    sweep)
        enter ok
        set +f
        rm -f "./.$kps_name.kps-"*
        ;;
esac
ends ok
