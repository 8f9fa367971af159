// A restore as one host's agent takes part in it.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Digest, Epoch, ErrorReportSchema, FileReference, Milliseconds, Name, TimeUs } from './basic.js'
import { MemberPart } from './local-snapshot.js'

/** POST /v1/networks/:network/restores/:snapshot/check and .../load share this body. */
export const RestoreRequest = Type.Object(
  {
    /** Fresh: above any epoch ever used in the network. */
    epoch: Epoch,
    /** The members to start on this host. */
    members: Type.Array(MemberPart),
    /** Channel files that hold frames for them, from the hosts they were cut on. */
    channels: Type.Array(FileReference),
    /** Of a check: other files to look for, which this host may be asked for. */
    files: Type.Optional(Type.Array(FileReference)),
    deadlineMs: Milliseconds,
    /**
     * Machines that run here under these names are ended before their next selves are loaded: room for both is not
     * needed.
     */
    endFirst: Type.Optional(Type.Boolean()),
  },
  closed,
)
export type RestoreRequest = Static<typeof RestoreRequest>

/**
 * Answer of check: files that are nowhere on this host, machines of those names that run here now, other problems.
 * `silent`: why machines that run could not be made to stand still.
 */
export const RestoreCheck = Type.Object({
  missing: Type.Array(FileReference),
  running: Type.Array(Name),
  silent: Type.Optional(Type.Array(ErrorReportSchema)),
  problems: Type.Array(ErrorReportSchema),
})
export type RestoreCheck = Static<typeof RestoreCheck>

/**
 * Answer of load: machines are in memory, paused; their former selves run on. `channelFrames`: the recorded frames for
 * them.
 */
export const RestoreLoaded = Type.Object({ loaded: Type.Array(Name), channelFrames: Count })
export type RestoreLoaded = Static<typeof RestoreLoaded>

/** POST .../pause: what runs here of the restore's machines stands still, behind closed gates. Undone by abort. */
export const RestorePause = Type.Object(
  {
    epoch: Epoch,
    /** All machines of the restore, wherever they are placed. */
    machines: Type.Array(Name),
    /** False: none of them may run. */
    replace: Type.Boolean(),
    /** For the pausing itself: the guests of other hosts stand still meanwhile. */
    pauseMs: Milliseconds,
    /** For the rest of the restore, after it. */
    deadlineMs: Milliseconds,
  },
  closed,
)
export type RestorePause = Static<typeof RestorePause>

export const RestorePaused = Type.Object({ paused: Type.Array(Name) })
export type RestorePaused = Static<typeof RestorePaused>

/**
 * Answer of POST .../switch, after the barrier: the network is fenced here, former selves are ended, the loaded
 * machines have their devices, the channel state waits for them.
 */
export const RestoreSwitched = Type.Object({ ended: Type.Array(Name), warnings: Type.Array(Type.String()) })
export type RestoreSwitched = Static<typeof RestoreSwitched>

export const RestoreSwitch = Type.Object({ deadlineMs: Milliseconds }, closed)
export type RestoreSwitch = Static<typeof RestoreSwitch>

/** Answer of POST .../resume: guests run, gates open, addresses announced. */
export const RestoreResumed = Type.Object({
  resumed: Type.Array(
    Type.Object({
      vm: Name,
      atUs: TimeUs,
      /** The files that its disks are in from now on. */
      disks: Type.Optional(Type.Array(Type.Object({ name: Type.String(), file: Type.String() }))),
    }),
  ),
})
export type RestoreResumed = Static<typeof RestoreResumed>

/** POST .../abort: nothing of the restore that had this epoch begins any more, also what comes later than this. */
export const RestoreAbort = Type.Object({ epoch: Epoch }, closed)
export type RestoreAbort = Static<typeof RestoreAbort>

/**
 * Answer of abort: what never ran is ended; `running` ran already, and run on. `standing`: former machines that the
 * restore has paused and could not resume; left out: none.
 */
export const RestoreAborted = Type.Object({
  running: Type.Array(Name),
  standing: Type.Optional(Type.Array(Name)),
})
export type RestoreAborted = Static<typeof RestoreAborted>
/** POST /v1/networks/:network/left: a restore is over, and these machines live elsewhere now. */
export const LeftRequest = Type.Object(
  {
    vms: Type.Array(Name),
    /** Contents that no snapshot has any more: copies of them may go. */
    released: Type.Optional(Type.Array(Digest)),
  },
  closed,
)
export type LeftRequest = Static<typeof LeftRequest>
