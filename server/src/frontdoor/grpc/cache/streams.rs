//! Read and Write: decode, call the engine, encode.

use pannier_proto::v1::{ReadRequest, ReadResponse, WriteRequest, WriteResponse};
use tonic::{Request, Response, Status, Streaming};

use super::Cache;
use crate::{
    error::Result,
    frontdoor::grpc::{
        call::Call,
        deadline::Deadline,
        decode,
        intake::Intake,
        transfer::{self, Held},
        watch::Replies,
    },
    key::key_hash,
    observe::Method,
};

impl Cache {
    pub(super) async fn read(
        &self,
        mut request: ReadRequest,
        deadline: Option<Deadline>,
        call: &mut Call<'_>,
    ) -> Result<Replies<ReadResponse>> {
        call.namespace.clone_from(&request.namespace);
        call.key = Some(key_hash(&request.key));
        let held = Held {
            _request: self.requests.admit_stream()?,
            _transfer: self.transfers.admit()?,
        };
        let range = transfer::range(&request);
        let tags = decode::lease_tags(request.options.as_mut());
        let tags = self.engine.counted_for(&call.namespace, tags)?;
        let options = decode::read_options(request.options);
        let options = self.engine.counted_for(&call.namespace, options)?;
        let reading = self
            .engine
            .read(
                &call.namespace,
                request.key,
                (options, &tags),
                range,
                &call.steps,
            )
            .await?;
        call.provenance = Some(reading.answer.provenance);
        Ok(transfer::stream(reading, held, deadline))
    }

    pub(super) async fn write(
        self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut call = self.call(Method::Write, &request);
        let mut intake = Intake::of(&request);
        let result = self.write_from(&mut intake, &mut call).await;
        call.answer(result)
    }

    async fn write_from(&self, intake: &mut Intake, call: &mut Call<'_>) -> Result<WriteResponse> {
        let _request = self.requests.admit()?;
        let _transfer = self.transfers.admit()?;
        let header = transfer::header(intake).await?;
        call.namespace.clone_from(&header.namespace);
        call.key = Some(key_hash(&header.key));
        let draft = transfer::draft(header);
        let draft = self.engine.counted_for(&call.namespace, draft)?;
        let parts = transfer::parts(intake);
        let uploaded = self
            .engine
            .write(&call.namespace, draft, parts, &call.steps)
            .await?;
        call.provenance = Some(uploaded.written.provenance);
        Ok(transfer::written(&uploaded))
    }
}
