// The API of captures: a stream of records for each that runs.

import { Type } from '@sinclair/typebox'
import { knownNetwork } from '../../src/api/names.js'
import { routes } from '../../src/api/paths.js'
import { CaptureInfo, CaptureRequest, Name } from '../../src/api/schemas.js'
import type { ApiInstance } from '../../src/api/server.js'
import type { WantedView } from '../wanted/wanted.js'
import type { Captures } from './captures.js'

export function addCaptures(app: ApiInstance, host: string, wanted: WantedView, captures: Captures): void {
  app.post(
    routes.networkCapture,
    { schema: { params: Type.Object({ network: Name }), body: CaptureRequest } },
    async (request, reply) => {
      const network = knownNetwork(`host ${host}`, request.params.network, wanted.networks())
      const stream = await captures.start(network, request.body)
      return reply.type('application/octet-stream').header('cache-control', 'no-store').send(stream)
    },
  )

  app.get(routes.captures, { schema: { response: { 200: Type.Array(CaptureInfo) } } }, async () => captures.list())

  app.delete(
    routes.capture,
    { schema: { params: Type.Object({ id: Type.String({ pattern: '^[0-9]{1,9}$' }) }) } },
    async (request) => {
      await captures.end(Number(request.params.id))
      return {}
    },
  )
}
