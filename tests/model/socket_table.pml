/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The socket table's protocol (include/utproxy/socket_table_core.h) in small, for spin, which tries
 * every interleaving of a writer and a reader. Every load and store of a shared word is a step of
 * its own. Words are read and written in program order here, as acquire and release keep them
 * there: there is one writer, and readers write nothing, so no other reordering could be seen.
 * Readers do not meet each other; one that may start at any time stands for all.
 *
 * Three sockets: 1 is always there and sometimes replaced, 2 and 3 come, change and go. Array A has
 * one bucket, B two, buckets have two slots and there are two followers, so chains overflow, gaps
 * are closed, followers are reused, and a rebuild splits and joins chains. Memory that is given back
 * may become zero. Everything beyond the key is a generation, in two words, which must agree.
 *
 * Checked of each lookup: what is found is whole, not older than what had been acknowledged before,
 * and had not been erased before; what is there throughout is not missed; a lookup that has to start
 * again does so because the writer has gone on. Letters as in the header; BREAK_* leaves one
 * guarantee out, and then spin must find fault.
 */
#ifndef DURING
#define DURING 2 /* the writer's operations at most while the reader looks */
#endif
#define SLOTS 2
#define BUCKETS 5
#define A0 0
#define B0 1
#define B1 2
#define FIRST_FOLLOWER 3
#define NONE 2 /* for `previous` */
#define HEAD(array, id) (array == 0 -> A0 : (id == 1 -> B0 : B1))
#define SLOT(bucket, s) ((bucket) * SLOTS + (s))
#define WORD(id, gen) ((id) * 32 + (gen))
#define ID(word) ((word) / 32)
#define GEN(word) ((word) % 32)
#define NEXT(l) ((l) % 8) /* a link's follower, 0: none */
#define FILTER(id) (8 << (id))

/* Shared. */
byte stamp[3];
byte link[BUCKETS];
byte tag[BUCKETS * SLOTS];
byte word0[BUCKETS * SLOTS], word1[BUCKETS * SLOTS];
byte root = 0, previous = NONE;
bool made;

/* Known outside: what the writer has acknowledged; and how many changes readers could have seen. */
byte written[4], erased[4], erasing[4];
byte changes;

/* The writer's own. */
byte counter;
bool follower_used[BUCKETS];
byte generation[4];
bool present[4];

#ifdef BREAK_STAMPS_DO_NOT_REPEAT
#define NEW_STAMP 1 + counter % 2
#else
#define NEW_STAMP counter
#endif
inline touch(head) { d_step { counter++; stamp[head] = NEW_STAMP; changes++ } }

inline set_words(slot, id, gen) { word0[slot] = WORD(id, gen); word1[slot] = WORD(id, gen) }
inline fill(slot, id, gen) {
#ifdef BREAK_PUBLISHED_WHOLE
  tag[slot] = id;
  set_words(slot, id, gen)
#else
  set_words(slot, id, gen); /* (A) (B) */
  tag[slot] = id            /* (A) */
#endif
}

inline add_to_filter(head, id) {
  if
  :: (link[head] & FILTER(id)) == 0 ->
#ifndef BREAK_FILTER
     link[head] = link[head] | FILTER(id); /* (F) */
     if
     :: stamp[head] != 0 -> touch(head)
     :: else
     fi
#else
     skip
#endif
  :: else
  fi
}

/* At most one follower a chain is needed here. */
inline append(head, id, gen) {
  d_step {
    bucket = head;
    if
    :: NEXT(link[head]) != 0 -> bucket = NEXT(link[head])
    :: else
    fi;
    s = 0;
    do
    :: s < SLOTS && tag[SLOT(bucket, s)] != 0 -> s++
    :: else -> break
    od;
    added = 0;
    if
    :: s == SLOTS ->
       assert(bucket == head);
       added = (follower_used[FIRST_FOLLOWER] -> FIRST_FOLLOWER + 1 : FIRST_FOLLOWER);
       assert(!follower_used[added]);
       follower_used[added] = true;
       s = 0
    :: else
    fi
  };
  if
  :: added != 0 ->
     link[added] = 0;
     tag[SLOT(added, 0)] = 0;
     tag[SLOT(added, 1)] = 0;
     fill(SLOT(added, 0), id, gen);
#ifdef BREAK_FILTER
     link[head] = added;
#else
     link[head] = added | FILTER(id) /* (A) (F) */
#endif
  :: else ->
     if
     :: bucket != head -> add_to_filter(head, id)
     :: else
     fi;
     fill(SLOT(bucket, s), id, gen)
  fi
}

/* The slot of `id` in the chain; of two, that which does not hold generation `not`. */
inline locate(head, id, not) {
  d_step {
    found = 255;
    bucket = head;
    do
    :: bucket != 255 ->
       s = 0;
       do
       :: s < SLOTS ->
          if
          :: tag[SLOT(bucket, s)] == id && word0[SLOT(bucket, s)] != WORD(id, not) ->
             found = SLOT(bucket, s)
          :: else
          fi;
          s++
       :: else -> break
       od;
       bucket = (NEXT(link[bucket]) != 0 -> NEXT(link[bucket]) : 255)
    :: else -> break
    od;
    assert(found != 255);
    bucket = 0; s = 0
  }
}

inline remove(head, slot) {
  tag[slot] = 0;
#ifndef BREAK_STAMPED_BEFORE_REUSE
  touch(head); /* (B) */
#endif
  if
  :: NEXT(link[head]) != 0 -> close_gap(head, slot)
  :: else
  fi;
  touch(head)
}

inline close_gap(head, gap) {
  d_step {
    bucket = NEXT(link[head]);
    last = 255;
    if
    :: tag[SLOT(bucket, 1)] != 0 -> last = SLOT(bucket, 1)
    :: tag[SLOT(bucket, 1)] == 0 && tag[SLOT(bucket, 0)] != 0 -> last = SLOT(bucket, 0)
    :: else
    fi;
    if
    :: gap / SLOTS == bucket && last != 255 && gap > last -> last = 254 /* no gap */
    :: else
    fi
  };
  if
  :: last < 254 ->
     fill(gap, tag[last], GEN(word0[last])); /* (A) (B) */
#ifndef BREAK_MOVE
     touch(head); /* (E) */
#endif
     tag[last] = 0;
     touch(head) /* (B) */
  :: else
  fi;
  if
  :: tag[SLOT(bucket, 0)] == 0 && tag[SLOT(bucket, 1)] == 0 ->
     link[head] = 0;
     touch(head); /* (B) */
     d_step { follower_used[bucket] = false; bucket = 0 }
  :: else
  fi
}

inline upsert(id) {
  d_step { head = HEAD(root, id); generation[id]++ };
  append(head, id, generation[id]);
  if
  :: present[id] ->
#ifndef BREAK_MOVE
     touch(head); /* (E) */
#endif
     locate(head, id, generation[id]);
     remove(head, found)
  :: else -> touch(head) /* (B) */
  fi;
  d_step { written[id] = generation[id]; present[id] = true }
}

inline erase(id) {
  d_step { head = HEAD(root, id); erasing[id] = generation[id] };
  locate(head, id, 0);
  remove(head, found);
  d_step { erased[id] = generation[id]; present[id] = false }
}

inline retire(head) {
  d_step { bucket = NEXT(link[head]) };
  d_step { stamp[head] = 0; changes++ }; /* (D) (B) */
  link[head] = 0;
  tag[SLOT(head, 0)] = 0;
  tag[SLOT(head, 1)] = 0;
  d_step {
    if
    :: bucket != 0 -> follower_used[bucket] = false
    :: else
    fi;
    bucket = 0
  };
  if /* given back, or not */
  :: word0[SLOT(head, 0)] = 0; word1[SLOT(head, 0)] = 0;
     word0[SLOT(head, 1)] = 0; word1[SLOT(head, 1)] = 0
  :: skip
  fi
}

inline move(id) {
  if
  :: present[id] -> append(HEAD(1 - from, id), id, generation[id])
  :: else
  fi
}

inline rebuild() {
  from = root;
#ifdef BREAK_PREVIOUS_BEFORE_ROOT
  d_step { root = 1 - from; changes++ };
  previous = from;
#else
  previous = from;                        /* (D) */
  d_step { root = 1 - from; changes++ }; /* (D) */
#endif
  if
  :: from == 0 ->
     move(1); move(2); move(3);
#ifdef BREAK_ALWAYS_A_LIVE_HEAD
     retire(A0); touch(B0); touch(B1)
#else
     touch(B0); touch(B1); retire(A0) /* (D) */
#endif
  :: else ->
     move(1);
#ifdef BREAK_COMPLETE_BEFORE_LIVE
     touch(A0); move(2); move(3);
#else
     move(2); move(3); touch(A0); /* (D) */
#endif
     retire(B0); retire(B1)
  fi;
  d_step { previous = NONE; changes++; from = 0 }
}

active proctype Writer() {
  byte ops, head, bucket, s, added, found, last, from;
  d_step {
    counter = 1; stamp[A0] = NEW_STAMP;
    generation[1] = 1; written[1] = 1; present[1] = true;
    word0[SLOT(A0, 0)] = WORD(1, 1); word1[SLOT(A0, 0)] = WORD(1, 1); tag[SLOT(A0, 0)] = 1
  };
  /* One of six tables, made before the reader starts. */
  if
  :: skip
  :: upsert(2)
  :: upsert(2); upsert(3)
  fi;
  if
  :: skip
  :: rebuild()
  fi;
  d_step { made = true; head = 0; bucket = 0; s = 0; added = 0; found = 0; last = 0 };
  do
  :: ops < DURING ->
     ops++;
     if
     :: upsert(1)
     :: upsert(2)
     :: upsert(3)
     :: present[2] -> erase(2)
     :: present[3] -> erase(3)
     :: rebuild()
     fi;
     d_step { head = 0; bucket = 0; s = 0; added = 0; found = 0; last = 0 }
  :: else -> break
  od
}

/* Reads what the slot says of `id`; two slots with it are an old and a new state, of which either
 * will do. */
inline look(slot) {
  t = tag[slot];
  if
  :: t == id ->
     first = word0[slot];
     second = word1[slot];
     if
     :: ID(first) == id && result == 0 -> result = first; result2 = second
     :: else
     fi
  :: else
  fi
}

active proctype Reader() {
  byte id, known_written, known_erased, seen, array, head, stamp1, l, t;
  byte first, second, result, result2;
  bool valid;
  made;
  if
  :: id = 1
  :: id = 2
  fi;
  known_written = written[id];
  known_erased = erased[id];
  do
  :: valid -> break
  :: else ->
     seen = changes;
     result = 0; result2 = 0;
     array = root; /* (D) */
     head = HEAD(array, id);
     stamp1 = stamp[head]; /* (C) first load */
     if
     :: stamp1 == 0 ->
        array = previous; /* (D) */
        if
        :: array != NONE ->
           head = HEAD(array, id);
           stamp1 = stamp[head] /* (C) first load */
        :: else
        fi
     :: else
     fi;
     if
     :: stamp1 == 0 -> assert(changes != seen)
     :: else ->
        l = link[head];
        look(SLOT(head, 0));
        look(SLOT(head, 1));
        if
        :: (l & FILTER(id)) != 0 ->
           valid = (stamp[head] == stamp1);
           if
           :: valid ->
              look(SLOT(NEXT(l), 0));
              look(SLOT(NEXT(l), 1))
           :: else
           fi
        :: else
        fi;
        valid = (stamp[head] == stamp1); /* (C) second load */
        assert(valid || changes != seen)
     fi
  od;
  if
  :: result == 0 -> assert(known_written <= known_erased || erasing[id] >= known_written)
  :: else ->
     assert(result == result2);
     assert(GEN(result) > known_erased);
     assert(GEN(result) >= known_written)
  fi
}
