// The API of recordings: the file as a stream, while it is made.

import { Type } from '@sinclair/typebox'
import { knownNetwork } from '../../src/api/names.js'
import { routes } from '../../src/api/paths.js'
import { Name, RecordingRequest } from '../../src/api/schemas.js'
import type { ApiInstance } from '../../src/api/server.js'
import type { WantedView } from '../wanted/wanted.js'
import type { Recordings } from './recordings.js'

const InNetwork = Type.Object({ network: Name })

export function addRecordings(app: ApiInstance, host: string, wanted: WantedView, recordings: Recordings): void {
  const checked = (network: string) => knownNetwork(`host ${host}`, network, wanted.networks())

  app.post(
    routes.networkRecording,
    { schema: { params: InNetwork, body: RecordingRequest } },
    async (request, reply) => {
      const stream = await recordings.start(checked(request.params.network), request.body)
      return reply.type('application/octet-stream').header('cache-control', 'no-store').send(stream)
    },
  )

  app.delete(routes.networkRecording, { schema: { params: InNetwork } }, async (request) => {
    await recordings.end(checked(request.params.network))
    return {}
  })
}
