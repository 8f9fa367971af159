// A restore as one host's agent takes part in it.

import { type Static, Type } from '@sinclair/typebox'
import { Count, closed, Epoch, ErrorReportSchema, FileReference, Milliseconds, Name, TimeUs } from './basic.js'
import { MemberPart, PortRecord } from './local-snapshot.js'

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
  },
  closed,
)
export type RestoreRequest = Static<typeof RestoreRequest>

/** Answer of check: files that are nowhere on this host, machines of those names that run here now, other problems. */
export const RestoreCheck = Type.Object({
  missing: Type.Array(FileReference),
  running: Type.Array(Name),
  problems: Type.Array(ErrorReportSchema),
})
export type RestoreCheck = Static<typeof RestoreCheck>

/** Answer of load: everything is in memory, paused, gates closed, channel state queued. */
export const RestoreLoaded = Type.Object({ loaded: Type.Array(Name), channelFrames: Count })
export type RestoreLoaded = Static<typeof RestoreLoaded>

/** Answer of POST .../resume: guests run, gates open, addresses announced. */
export const RestoreResumed = Type.Object({ resumed: Type.Array(Type.Object({ vm: Name, atUs: TimeUs })) })
export type RestoreResumed = Static<typeof RestoreResumed>

/** Answer of abort: what never ran is ended; these ran already, and run on. */
export const RestoreAborted = Type.Object({ running: Type.Array(Name) })
export type RestoreAborted = Static<typeof RestoreAborted>

/** POST /v1/networks/:network/members/:vm/remove: the machine is ended if it runs and its ports leave the network. */
export const RemoveMemberAnswer = Type.Object({ destroyed: Type.Boolean(), ports: Type.Array(PortRecord) })
export type RemoveMemberAnswer = Static<typeof RemoveMemberAnswer>

/** POST /v1/networks/:network/left: a restore is over, and these machines live elsewhere now. */
export const LeftRequest = Type.Object({ vms: Type.Array(Name) }, closed)
export type LeftRequest = Static<typeof LeftRequest>
