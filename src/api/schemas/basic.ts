// What all the schemas are made of: names, counts, times, files, errors.

import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { type ErrorCode, errorCodes } from '../../errors/errors.js'

export const closed = { additionalProperties: false } as const
export const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()])

const OBJECTS_OWN = Object.getOwnPropertyNames(Object.prototype).filter((name) => !name.startsWith('_'))

/**
 * Names of hosts, networks, ports, machines and snapshots. No slash, no leading dot: a name can be a file name. None
 * that every object has, such as `constructor`: tables by name are objects.
 */
export const Name = Type.String({
  pattern: `^(?!(?:${OBJECTS_OWN.join('|')})$)[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`,
  description:
    'letters, digits, _ . -; at most 63; first a letter or digit; none that every object has, as constructor',
})
export const Mac = Type.String({ pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' })
export const Digest = Type.String({ pattern: '^[0-9a-f]{64}$', description: 'sha256, hex' })
export const AbsolutePath = Type.String({ pattern: '^/', description: 'an absolute path' })
/** u32 that only grows: how many cuts a port has made. */
export const Epoch = Type.Integer({ minimum: 0, maximum: 0xffffffff })
/** Microseconds of CLOCK_REALTIME. */
export const TimeUs = Type.Integer({ minimum: 0 })
export const Count = Type.Integer({ minimum: 0 })
export const Milliseconds = Type.Integer({ minimum: 1, maximum: 3_600_000 })

export const ErrorReportSchema = Type.Object({
  code: Type.Unsafe<ErrorCode>(Type.String({ enum: Object.keys(errorCodes) })),
  message: Type.String(),
  action: Type.String(),
})

/** A file on the host that holds it; `path` is absolute there. Elsewhere it is asked for by digest. */
export const FileReference = Type.Object({ path: Type.String(), bytes: Count, digest: Digest }, closed)
export type FileReference = Static<typeof FileReference>
